#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A terminal without a screen: terminal.py DIR PROGRAM [ARG]...

Runs the program on a new pseudo terminal. What it prints is appended to
DIR/screen, what is appended to DIR/typed (lines with Python's escapes) is
typed. DIR/ready appears when the program runs.
"""
import os
import pty
import select
import signal
import sys

os.closerange(3, 1024)
for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE):
    signal.signal(number, signal.SIG_DFL)
directory, program = sys.argv[1], sys.argv[2:]
os.chdir(directory)
open("typed", "a").close()
pid, master = pty.fork()
if pid == 0:
    os.environ["PS1"] = "$ "
    os.execvp(program[0], program)
with open("screen", "ab", 0) as screen:
    os.close(os.open("ready", os.O_CREAT | os.O_WRONLY, 0o644))
    done = 0
    while True:
        if select.select([master], [], [], 0.05)[0]:
            try:
                screen.write(os.read(master, 4096))
            except OSError:
                break  # the program has ended
        with open("typed") as typed:
            lines = typed.read().split("\n")[:-1]
        for line in lines[done:]:
            os.write(master, line.encode().decode("unicode_escape").encode())
        done = len(lines)
