#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Checks the log of service.py, and measures the gaps in it.

    check.py LOG                 computes everything again; exit 1 with the reasons if anything differs
    check.py LOG --gap FROM TO   prints the largest gap between two lines with sequence numbers in
                                 FROM..TO, and the usual one, in milliseconds
"""

import hashlib
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from service import LEDGER_SLOTS, answer  # pylint: disable=wrong-import-position

FIELDS = 13


def read_log(path):
    """Returns the lines as lists of fields, and the last line's fields or None."""
    with open(path, "rb") as file:
        data = file.read()
    lines = data.decode("ascii", "replace").split("\n")
    torn = lines.pop()
    end = None
    if lines and lines[-1].startswith("end "):
        end = lines.pop().split()
    return [line.split(" ") for line in lines], end, torn


class Report:
    """Collects what is wrong; says only the first few of each sort."""

    def __init__(self):
        self.wrong = {}

    def expect(self, fact, sort, text):
        """Notes TEXT under SORT unless FACT."""
        if not fact:
            self.wrong.setdefault(sort, []).append(text)

    def print(self):
        """Prints the findings, returns whether there were none."""
        for sort, texts in self.wrong.items():
            for text in texts[:3]:
                print(f"{sort}: {text}")
            if len(texts) > 3:
                print(f"{sort}: and {len(texts) - 3} more")
        return not self.wrong


def check_sequence(lines, report):
    """Every number once and in order, every line whole, monotonic time never back."""
    last_time = 0
    for index, fields in enumerate(lines):
        if len(fields) != FIELDS or not fields[0].isdigit():
            report.expect(False, "torn line", f"line {index + 1}: {' '.join(fields)[:60]!r}")
            continue
        report.expect(int(fields[0]) == index, "sequence",
                      f"line {index + 1} has number {fields[0]}, not {index}")
        report.expect(int(fields[1]) >= last_time, "clock",
                      f"the monotonic clock goes back before number {fields[0]}")
        last_time = int(fields[1])


def check_primes(lines, report):
    """Counts all primes below the last limit with one large sieve."""
    top = max(int(fields[3]) for fields in lines)
    sieve = bytearray(b"\1") * top
    sieve[0:2] = b"\0\0"
    for n in range(2, int(top ** 0.5) + 1):
        if sieve[n]:
            sieve[n * n::n] = bytes(len(range(n * n, top, n)))
    counted = done = 0
    for fields in lines:
        limit, count = int(fields[3]), int(fields[4])
        if limit > done:
            counted += sum(sieve[done:limit])
            done = limit
        report.expect(limit < 3 or count == counted, "primes",
                      f"number {fields[0]}: {count} below {limit}, expected {counted}")


def check_chain(lines, end, report):
    """Extends the chain again, filing the ledger as the service did."""
    value = bytes(32)
    step = 0
    ledger = bytearray(LEDGER_SLOTS * 32)
    wanted = [(int(fields[5]), fields[6], fields[0]) for fields in lines]
    if end:
        wanted.append((int(end[2]), None, "end"))
    for target, expected, number in wanted:
        while step < target:
            value = hashlib.sha256(value).digest()
            slot = step % LEDGER_SLOTS * 32
            ledger[slot:slot + 32] = value
            step += 1
        report.expect(step == target, "chain", f"number {number}: goes back to step {target}")
        report.expect(expected in (None, value.hex()), "chain",
                      f"number {number}: wrong hash at step {target}")
    if end:
        report.expect(hashlib.sha256(ledger).hexdigest() == end[3], "memory",
                      "the ledger in the service's memory is not what was written to it")


def check_child(lines, column, name, report):
    """Asks the questions again."""
    state, asked = b"", 0
    for fields in lines:
        target = int(fields[column])
        while asked < target:
            state = answer(state, asked.to_bytes(8, "little"))
            asked += 1
        report.expect(asked == target and (state.hex() or "-") == fields[column + 1], name,
                      f"number {fields[0]}: wrong after question {target}")
        report.expect(fields[column + 2] == "0", name, f"number {fields[0]}: lost an answer")


def check(path):
    """Checks one log; returns the exit status."""
    report = Report()
    lines, end, torn = read_log(path)
    report.expect(len(lines) > 1, "log", "is empty")
    report.expect(end is not None and len(end) == 4, "log", "has no last line: the service did not end by itself")
    report.expect(not torn, "log", f"ends in the middle of a line: {torn[:60]!r}")
    check_sequence(lines, report)
    if not report.wrong:
        report.expect(int(end[1]) == len(lines), "sequence", f"{len(lines)} lines, {end[1]} written")
        check_primes(lines, report)
        check_chain(lines, end, report)
        check_child(lines, 7, "child 0", report)
        check_child(lines, 10, "child 1", report)
    if not report.print():
        return 1
    last = lines[-1]
    print(f"{len(lines)} lines, {last[4]} primes, {end[2]} hashes, {int(last[7]) + int(last[10])} answers of children")
    return 0


def gap(path, first, last):
    """Prints largest and usual time between two lines (wall clock: both hosts have the same)."""
    lines, _, _ = read_log(path)
    times = [int(fields[2]) for fields in lines if first <= int(fields[0]) <= last]
    steps = sorted(b - a for a, b in zip(times, times[1:]))
    if not steps:
        return 1
    print(f"{steps[-1] / 1e6:.1f} {steps[len(steps) // 2] / 1e6:.1f}")
    return 0


if __name__ == "__main__":
    if len(sys.argv) == 2:
        sys.exit(check(sys.argv[1]))
    if len(sys.argv) == 5 and sys.argv[2] == "--gap":
        sys.exit(gap(sys.argv[1], int(sys.argv[3]), int(sys.argv[4])))
    sys.exit(__doc__)
