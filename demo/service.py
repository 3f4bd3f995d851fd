#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A busy service for the demo: computes in threads and children, and keeps a log.

    service.py LOG PIDFILE

Four threads compute without end: one counts primes, one extends a chain of SHA-256 hashes and
files every hash in a ledger of 32 MiB, two feed a child process each through pipes and read its
answers. The main thread writes the state of all of them to LOG (opened once, for appending) every
few milliseconds, as lines with an increasing sequence number and the time. Everything in a line
can be computed again from scratch, which check.py does: a lost or repeated step, a lost pipe
message or a wrong byte of memory does not go unnoticed. SIGTERM writes a last line and ends it.
"""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

LEDGER_SLOTS = 1 << 20
LINE_PERIOD_S = 0.004
SLICE_S = 0.002


def answer(state, question):
    """What a child replies: its next state."""
    return hashlib.blake2b(state + question * 64, digest_size=16).digest()


def child_main():
    """The child's side of the pipes: a running digest over all questions so far."""
    state = b""
    questions = sys.stdin.buffer
    answers = sys.stdout.buffer
    while question := questions.read(8):
        state = answer(state, question)
        answers.write(state)
        answers.flush()


class Primes(threading.Thread):
    """Counts primes, a segment at a time."""

    SEGMENT = 20000

    def __init__(self):
        super().__init__(name="primes", daemon=True)
        self.state = (2, 0)

    def run(self):
        base = [2, 3, 5, 7]
        limit, count = self.state
        while True:
            top = limit + self.SEGMENT
            while base[-1] * base[-1] < top:
                base.extend(n for n in range(base[-1] + 1, 2 * base[-1])
                            if all(n % p for p in base if p * p <= n))
            sieve = bytearray(b"\1") * self.SEGMENT
            for p in base:
                start = max(p * p, (limit + p - 1) // p * p) - limit
                if start < self.SEGMENT:
                    sieve[start::p] = bytes(len(range(start, self.SEGMENT, p)))
            limit, count = top, count + sum(sieve)
            self.state = (limit, count)
            time.sleep(SLICE_S)


class Chain(threading.Thread):
    """Hashes its own last hash, and keeps the last million of hashes in memory."""

    SLICE = 500

    def __init__(self):
        super().__init__(name="chain", daemon=True)
        self.ledger = bytearray(LEDGER_SLOTS * 32)
        self.state = (0, bytes(32))
        self.stop = False

    def run(self):
        step, value = self.state
        while not self.stop:
            for _ in range(self.SLICE):
                value = hashlib.sha256(value).digest()
                slot = step % LEDGER_SLOTS * 32
                self.ledger[slot:slot + 32] = value
                step += 1
            self.state = (step, value)
            time.sleep(SLICE_S)


class Clerk(threading.Thread):
    """Asks a child process question after question and compares its answers."""

    def __init__(self, number):
        super().__init__(name=f"clerk-{number}", daemon=True)
        self.child = subprocess.Popen([sys.executable, os.path.abspath(__file__), "child"],
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.state = (0, b"")
        self.wrong = 0
        self.stop = False

    def run(self):
        asked, expected = self.state
        while not self.stop:
            question = asked.to_bytes(8, "little")
            self.child.stdin.write(question)
            self.child.stdin.flush()
            expected = answer(expected, question)
            if self.child.stdout.read(16) != expected:
                self.wrong += 1
            asked += 1
            self.state = (asked, expected)
            time.sleep(SLICE_S / 4)


def service_main(log_path, pid_path):
    """Starts the threads and writes the log until SIGTERM."""
    ending = []  # not an Event: set() in a handler waits for ever where wait() has its lock just then
    signal.signal(signal.SIGTERM, lambda *_: ending.append(True))
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC, 0o644)
    primes, chain, clerks = Primes(), Chain(), [Clerk(0), Clerk(1)]
    for thread in (primes, chain, *clerks):
        thread.start()
    with open(pid_path + ".new", "w", encoding="ascii") as file:
        file.write(f"{os.getpid()}\n")
    os.rename(pid_path + ".new", pid_path)

    sequence = 0
    while not ending:
        fields = [sequence, time.monotonic_ns(), time.time_ns(),
                  *primes.state, chain.state[0], chain.state[1].hex()]
        for clerk in clerks:
            fields += [clerk.state[0], clerk.state[1].hex() or "-", clerk.wrong]
        os.write(log, (" ".join(map(str, fields)) + "\n").encode())
        sequence += 1
        time.sleep(LINE_PERIOD_S)
    chain.stop = True
    chain.join()
    digest = hashlib.sha256(chain.ledger).hexdigest()
    os.write(log, f"end {sequence} {chain.state[0]} {digest}\n".encode())
    for clerk in clerks:
        clerk.stop = True
        clerk.join()
        clerk.child.stdin.close()
        clerk.child.wait()


if __name__ == "__main__":
    if sys.argv[1:] == ["child"]:
        child_main()
    elif len(sys.argv) == 3:
        service_main(sys.argv[1], sys.argv[2])
    else:
        sys.exit("usage: service.py LOG PIDFILE")
