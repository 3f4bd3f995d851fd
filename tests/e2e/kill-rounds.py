#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kill-rounds.py ENGINE PID DIR WANTED SEED: rounds of "dump --leave-running" of the busy victim PID (tests/victims/busy.c,
at work in DIR), each command killed by SIGKILL at a random moment, until WANTED commands were killed
at work. Prints what it did; with exit status 1, in the last line, how the victim has suffered.

Not in the shell: there the processes of one round take longer than a dump, and a thousand rounds an hour.
"""
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time

STATUS = re.compile(r"^(Sig(Blk|Ign|Cgt)|Uid|Gid|Cap|NoNew|Seccomp|Threads|TracerPid)")
TRACED = re.compile(r"^TracerPid:\s+[1-9]", re.MULTILINE)
ROUNDS_PER_KILL = 10  # more of them: the moments were badly chosen
ROUNDS_PER_LOOK = 20
CLEANING_DUMPS = 20


class Suffered(Exception):
    """The victim is not as it should be."""


def read(path):
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read()


def wait_for(seconds, condition):
    """Whether it comes true in that time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


class Victim:
    """The program under dump."""

    def __init__(self, pid, folder):
        self.proc = f"/proc/{pid}"
        self.pid = pid
        self.folder = folder

    def statuses(self):
        for tid in sorted(os.listdir(f"{self.proc}/task")):
            yield read(f"{self.proc}/task/{tid}/status")

    def describe(self):
        """What must not change: areas, descriptors, signal masks, limits."""
        fds = sorted(os.listdir(f"{self.proc}/fd"), key=int)
        flags = [re.search("flags.*", read(f"{self.proc}/fdinfo/{fd}")).group() for fd in fds]
        lines = [f"{fd} {os.readlink(f'{self.proc}/fd/{fd}')} {flag}" for fd, flag in zip(fds, flags)]
        for status in self.statuses():
            lines += [line for line in status.splitlines() if STATUS.match(line)]
        for name in ("maps", "limits", "timers"):
            lines += read(f"{self.proc}/{name}").splitlines()
        return lines

    def traced(self):
        return any(TRACED.search(status) for status in self.statuses())

    def progress(self):
        """A counter for each thread."""
        with open(f"{self.folder}/progress", "rb") as file:
            return [number for (number,) in struct.iter_unpack("<Q", file.read())]

    def check(self, before):
        """It lives, nobody traces it, and all threads have gone on since @before."""
        try:
            if not wait_for(10, lambda: not self.traced()):
                raise Suffered("somebody still traces it")
            if os.path.exists(f"{self.folder}/result"):
                raise Suffered(read(f"{self.folder}/result"))
            if not wait_for(30, lambda: all(b > a for a, b in zip(before, self.progress()))):
                raise Suffered(f"threads stand still: {before} and {self.progress()}")
            if read(f"{self.proc}/stat").rsplit(") ", 1)[1][0] in "ZX":
                raise Suffered("it is dead")
        except (FileNotFoundError, ProcessLookupError) as error:
            raise Suffered(f"it is gone: {error}") from error


class Rounds:
    """Dumps of one victim, and when they are killed."""

    def __init__(self, engine, victim, rng):
        self.engine = engine
        self.victim = victim
        self.rng = rng
        self.whole = 60.0  # about how long a dump takes, in seconds
        self.killed = self.leftovers = 0

    def start(self):
        images = f"{self.victim.folder}/images"
        shutil.rmtree(images, ignore_errors=True)
        os.mkdir(images)
        return subprocess.Popen([self.engine, "dump", "-R", "-t", str(self.victim.pid), "-D", images,
                                 "-o", "dump.log"], stdin=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def undisturbed(self):
        """A dump to its end. The shortest says how long one takes: the first ones are cold."""
        start = time.monotonic()
        status = self.start().wait(timeout=60)
        self.whole = min(self.whole, time.monotonic() - start)
        if status:
            raise Suffered(f"a dump that nobody disturbs fails with status {status}")

    def one(self):
        """One round. After a miss the next is killed sooner, after a hit later: about half are hits."""
        before = self.victim.progress()
        delay = self.rng.uniform(0, 1.1 * self.whole)
        command = self.start()
        time.sleep(delay)
        command.send_signal(signal.SIGKILL)
        hit = command.wait(timeout=60) == -signal.SIGKILL
        self.killed += hit
        self.whole *= 1.03 if hit else 1 / 1.03
        self.victim.check(before)

    def look(self, first):
        """Is all as it was first? What a killed visitor could not take with it (its region, while a thread
        was in a signal handler on top of the way home) is cleared by a later visit: by one of the
        next dumps that nobody disturbs."""
        for _ in range(CLEANING_DUMPS):
            now = self.victim.describe()
            if now == first:
                return
            self.leftovers += 1
            self.undisturbed()
        raise Suffered(f"not as before: {sorted(set(now) ^ set(first))[:10]}")


def main():
    engine, pid, folder, wanted, seed = sys.argv[1:]
    rounds = Rounds(engine, Victim(int(pid), folder), random.Random(int(seed)))
    number = 0
    try:
        first = rounds.victim.describe()
        for _ in range(5):
            rounds.undisturbed()
        rounds.look(first)
        while rounds.killed < int(wanted) and number < ROUNDS_PER_KILL * int(wanted):
            number += 1
            rounds.one()
            if number % ROUNDS_PER_LOOK == 0 or rounds.killed == int(wanted):
                rounds.look(first)
    except (Suffered, subprocess.TimeoutExpired) as why:
        print(f"round {number}, {rounds.killed} killed: {why}")
        return 1
    print(f"{number} rounds, {rounds.killed} commands killed, {rounds.leftovers} times something was left to clear")
    if rounds.killed < int(wanted):
        print(f"only {rounds.killed} commands of {number} were still there to be killed")
        return 1
    return 0


sys.exit(main())
