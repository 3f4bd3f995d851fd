#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Kills both sides of a migration at the same moment, when a stage begins.

  strike.py STAGE PID PID COMMAND...

Runs COMMAND, a "ferry migrate --json", and reads its events; at the one that announces STAGE it
kills, by SIGKILL, every ferry in the PID namespaces of the processes PID (the first ones of the two
hosts). Who they are is found at the earlier events, so that the kills follow the announcement at
once. Prints "struck" and what those did, or "missed".
"""
import json
import os
import signal
import subprocess
import sys


def ferries(namespaces):
    """The ferry processes of the hosts: what each does, by pid."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            program = os.path.basename(os.readlink(f"/proc/{name}/exe"))
            if program == "ferry" and os.readlink(f"/proc/{name}/ns/pid") in namespaces:
                found[int(name)] = words[1].decode()
        except (OSError, IndexError):
            pass
    return found


def kill(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


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
                victims = ferries(namespaces)
                continue
            kill(victims)
            late = ferries(namespaces)
            kill(late)
            struck = sorted({**victims, **late}.values())
    print("missed" if struck is None else "struck " + " ".join(struck))


main()
