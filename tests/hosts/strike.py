#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Kills both sides of a migration at the same moment, when a stage begins.

  strike.py STAGE PID PID COMMAND...

Runs COMMAND, a "ferry migrate --json", and reads its events; at the one that announces STAGE it
kills, by SIGKILL, every ferry in the PID namespaces of the processes PID (the first ones of the two
hosts), but not the guardian, who is there for when the others are killed. Who they are is found at the earlier events, so that the kills follow the announcement at
once; those that have come since are killed after them. Prints "struck" and what those did that were
alive until then, one word for each, or "missed".
"""
import json
import os
import select
import signal
import subprocess
import sys


def ferries(namespaces, known):
    """Adds the ferry processes of the hosts to @known: by pid, what each does and a pidfd of it."""
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in known:
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            program = os.path.basename(os.readlink(f"/proc/{name}/exe"))
            if program == "ferry" and os.readlink(f"/proc/{name}/ns/pid") in namespaces:
                known[int(name)] = (words[1].decode(), os.pidfd_open(int(name)))
        except (OSError, IndexError):
            pass


def is_guardian(pid):
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
            return file.read().strip() == "ferry-guardian"
    except OSError:
        return False


def kill(victims):
    """What those did that had not ended before. A pidfd is readable when its process has ended."""
    alive = select.poll()
    for _, fd in victims.values():
        alive.register(fd, select.POLLIN)
    ended = {fd for fd, _ in alive.poll(0)}
    struck = []
    for pid, (word, fd) in victims.items():
        if fd not in ended and not is_guardian(pid):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            struck.append(word)
    return struck


def main():
    wanted, inits, command = sys.argv[1], sys.argv[2:4], sys.argv[4:]
    namespaces = {os.readlink(f"/proc/{pid}/ns/pid") for pid in inits}
    victims, struck = {}, None
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as migrate:
        for line in migrate.stdout:
            event = json.loads(line)
            if struck is not None or event.get("event") != "stage":
                continue
            if event["stage"] != wanted:
                ferries(namespaces, victims)
                continue
            struck = kill(victims)
            late = {pid: None for pid in victims}
            ferries(namespaces, late)
            struck += kill({pid: v for pid, v in late.items() if v})
    print("missed" if struck is None else "struck " + " ".join(sorted(struck)))


main()
