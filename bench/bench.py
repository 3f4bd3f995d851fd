#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Times ferry and CRIU doing the same jobs, alternately, on the programs of victim.c.

Started by run.sh, which sets FERRY, CRIU (may be empty) and BENCH_VICTIM and gives it a PID
namespace. For each program and each repetition, with a fresh program each time:

  gap       the largest gap that the program sees during "dump --leave-running"
  dump      time of the whole command "dump"
  restore   time of the whole command "restore --restore-detached"
  away      the gap that the program sees over those two commands

Figures are medians; the first repetition warms caches and is thrown away. The images are in
memory (--dir), so that no disk is measured. Migrations run between two hosts made of namespaces
(tests/hosts/), over ssh.
"""

import argparse
import contextlib
import datetime
import json
import mmap
import os
import pathlib
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from floor import floor_ms
from overlap import Relays
from transport import rates

TOP = pathlib.Path(__file__).resolve().parent.parent
HOSTS = TOP / "tests/hosts/hosts.sh"
COMMAND_LIMIT_S = 120
WAIT_S = 60
FLOOR_MIB = 256  # from here on the memory is what takes the time
MIB = 1 << 20

# name: arguments of the victim, MiB of its memory, repetitions
CASES = {
    "1 task": (("tasks", "1"), 1, 9),
    "100 tasks": (("tasks", "100"), 100, 5),
    "1000 threads": (("threads", "1000"), 20, 5),
    "1 GiB": (("memory", "1024"), 1024, 3),
}
FIGURES = ("gap", "dump", "restore", "away")


class Failure(Exception):
    """A command or a victim did not do what it should."""


def run_timed_text(argv):
    """Runs a command to its end, returns its time in ms and its output, which shows only if it fails."""
    start = time.monotonic()
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False,
                          stderr=subprocess.STDOUT, timeout=COMMAND_LIMIT_S)
    elapsed = time.monotonic() - start
    if done.returncode != 0:
        text = done.stdout.decode(errors="replace")[-2000:]
        raise Failure(f"{' '.join(map(str, argv))}: exit status {done.returncode}\n{text}")
    return elapsed * 1000, done.stdout.decode(errors="replace")


def run_timed(argv):
    """The time alone."""
    return run_timed_text(argv)[0]


class Tool:
    """A checkpoint program: how to call it. Ferry takes CRIU's options, so they differ in name."""

    def __init__(self, name, program):
        self.name = name
        self.program = program

    def dump(self, pid, images, *options):
        """Dumps a tree, returns the time of the command in ms."""
        images.mkdir()
        return run_timed([self.program, "dump", "-t", str(pid), "-D", str(images),
                          "-o", "dump.log", *options])

    def restore(self, images):
        """Restores it, returns the time of the command in ms."""
        return run_timed([self.program, "restore", "-d", "-D", str(images), "-o", "restore.log"])


def wait_until(condition, what):
    """Waits until condition() returns something true, and returns that."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        result = condition()
        if result:
            return result
        time.sleep(0.01)
    raise Failure(f"{what}: nothing happens")


class Victim:
    """A running victim, here or (with prefix and root) in a host."""

    def __init__(self, folder, arguments, host=None):
        self.folder = folder
        self.host = host
        self.command("mkdir", "-p", folder)
        program = "/opt/bench-victim" if host else os.environ["BENCH_VICTIM"]
        self.command(program, folder, *arguments)
        self.pid = int(self.path("pid").read_text("ascii"))

    def command(self, *argv):
        """Runs a command where the victim is."""
        run_timed([*(self.host.prefix() if self.host else ()), *map(str, argv)])

    def path(self, name):
        """A file of the victim's, as seen from here."""
        root = self.host.root() if self.host else ""
        return pathlib.Path(f"{root}{self.folder}/{name}")

    def report(self):
        """The largest gap in ms since the last report; fails if the victim found itself damaged."""
        self.path("report").unlink(missing_ok=True)
        self.command("kill", "-USR1", self.pid)
        gap, verdict = wait_until(lambda: self.path("report").exists() and
                                  self.path("report").read_text("ascii"), "the victim").split(" ", 1)
        if verdict.strip() != "ok":
            raise Failure(f"the victim: {verdict.strip()}")
        return int(gap) / 1e6

    def end(self):
        """Kills it, all tasks of its session."""
        try:
            self.command("pkill", "-KILL", "-s", self.pid)
        except Failure:
            pass  # none left
        if not self.host:
            wait_until(lambda: not os.path.exists(f"/proc/{self.pid}"), "the killed victim")


def touch_memory(mib):
    """Takes memory from the machine and gives it back: the first use of what a virtual machine had
    returned to its host costs far more than anything measured here."""
    with mmap.mmap(-1, mib * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE):
        pass


def write_floor(folder, mib):
    """The time in ms to write that much to where the images go, out of the cache: less cannot be had
    by anything that copies."""
    chunk = os.urandom(MIB)
    path = folder / "floor"
    start = time.monotonic()
    with open(path, "wb", buffering=0) as file:
        for _ in range(mib):
            file.write(chunk)
    elapsed = time.monotonic() - start
    path.unlink()
    return elapsed * 1000


def end_floor(folder, arguments):
    """The time in ms in which the kernel ends such a victim: whoever dumps it, and returns when it is gone,
    waits for that."""
    victim = Victim(folder / "victim", arguments)
    start = time.monotonic()
    os.kill(victim.pid, signal.SIGKILL)
    while os.path.exists(f"/proc/{victim.pid}"):
        time.sleep(0.001)
    return (time.monotonic() - start) * 1000


def one_round(tool, arguments, mib, folder):
    """Measures all figures once with a fresh victim."""
    result = {}
    touch_memory(3 * mib + 64)
    victim = Victim(folder / "victim", arguments)
    try:
        victim.report()
        tool.dump(victim.pid, folder / "kept", "-R")
        result["gap"] = victim.report()
        shutil.rmtree(folder / "kept")

        touch_memory(2 * mib + 64)
        victim.report()
        result["dump"] = tool.dump(victim.pid, folder / "images")
        # The commands end before init has buried the last task; its PID is not free until then.
        wait_until(lambda: not os.path.exists(f"/proc/{victim.pid}"), "the dumped victim")
        result["restore"] = tool.restore(folder / "images")
        result["away"] = victim.report()
    finally:
        victim.end()
        shutil.rmtree(folder / "images", ignore_errors=True)
        shutil.rmtree(folder / "kept", ignore_errors=True)
    return result


class Host:
    """One of the two hosts."""

    def __init__(self, folder, name):
        self.folder = folder
        self.name = name

    def prefix(self):
        """What to put before a command to run it there."""
        return [str(HOSTS), "exec", str(self.folder), self.name]

    def root(self):
        """Where its files are."""
        return subprocess.run([HOSTS, "root", self.folder, self.name], check=True,
                              stdout=subprocess.PIPE, text=True).stdout.strip()


def migrated(hosts, arguments, mib, *options):
    """Migrates a fresh victim from a to b; returns its gap and the time of the command in ms, and what that printed."""
    touch_memory(2 * mib + 64)
    victim = Victim("/srv/work/victim", arguments, hosts[0])
    try:
        run_timed([*hosts[1].prefix(), "mkdir", "-p", "/srv/work/victim"])
        victim.report()
        elapsed, text = run_timed_text([*hosts[0].prefix(), "ferry", "migrate", *options, str(victim.pid), "ferry-b"])
        victim.host = hosts[1]
        return {"gap": victim.report(), "time": elapsed}, text
    finally:
        victim.end()


def one_mode(hosts, mode, arguments, mib):
    """A migration in a mode; also what ferry says about it, times in ms."""
    figures, text = migrated(hosts, arguments, mib, "--json", "--mode", mode)
    events = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    moved = next(event for event in events if event["event"] == "moved")
    lazy = moved.get("postcopy", {})
    return {**figures, "frozen": moved["frozen_seconds"] * 1000, "rounds": moved["rounds"],
            "p50": lazy.get("fault_p50_seconds", 0) * 1000, "p99": lazy.get("fault_p99_seconds", 0) * 1000,
            "drain": lazy.get("drain_seconds", 0) * 1000}


def median_of(rounds, figure):
    """The median over all rounds but the first."""
    return statistics.median(entry[figure] for entry in rounds[1:])


class Output:
    """Prints lines and keeps them, for --save."""

    def __init__(self):
        self.lines = []

    def line(self, text=""):
        """Prints and keeps a line."""
        print(text, flush=True)
        self.lines.append(text)

    def row(self, *cells):
        """A row of a table."""
        self.line("| " + " | ".join(f"{cell:<12}" if i == 0 else f"{cell:>10}"
                                    for i, cell in enumerate(cells)) + " |")


def bench_tools(tools, cases, repetitions, folder, output):
    """The table of dump and restore."""
    output.row("program", "figure", *(f"{tool.name} ms" for tool in tools),
               *(["ratio"] if len(tools) == 2 else []))
    output.row(*["---"] * (3 + (2 if len(tools) == 2 else 0)))
    worst = 0
    for name in cases:
        arguments, mib, usual = CASES[name]
        rounds = {tool.name: [] for tool in tools}
        for _ in range((repetitions or usual) + 1):
            for tool in tools:
                rounds[tool.name].append(one_round(tool, arguments, mib, folder))
        for figure in FIGURES:
            values = [median_of(rounds[tool.name], figure) for tool in tools]
            ratio = [f"{values[0] / values[1]:.2f}"] if len(tools) == 2 else []
            worst = max(worst, values[0] / values[1]) if len(tools) == 2 else 0
            output.row(name, figure, *(f"{value:.1f}" for value in values), *ratio)
        if mib >= FLOOR_MIB:
            floor = statistics.median(write_floor(folder, mib) for _ in range(3))
            output.row(name, "writing it", f"{floor:.1f}")
            floor = statistics.median(end_floor(folder, arguments) for _ in range(3))
            output.row(name, "ending it", f"{floor:.1f}")
    if worst:
        output.line(f"\nThe worst ratio is {worst:.2f} (the target is 0.50 for each).")


def missing_pages(way, mib, repetitions, output):
    """A table of missing pages that come in one way: each figure beside its floor, the median over runs."""
    runs = []
    for _ in range(repetitions + 1):
        text = subprocess.run([os.environ["BENCH_LAZY"], way, str(mib)], check=True, stdout=subprocess.PIPE,
                              text=True, timeout=COMMAND_LIMIT_S).stdout
        runs.append({line.split()[0]: float(line.split()[1]) for line in text.splitlines()})
    output.row("figure", "ferry", "floor", "x floor", "bare", "x bare")
    output.row(*["---"] * 6)
    for figure, floor, bare, unit in (("fault_p50", "floor_p50", "bare_p50", "us"), ("fault_p99", "floor_p99", "bare_p99", "us"),
                                      ("busy_p50", "floor_p50", "bare_busy_p50", "us"),
                                      ("busy_p99", "floor_p99", "bare_busy_p99", "us"),
                                      ("busy_rate", "rate_floor", None, "MB/s"), ("drain", "rate_floor", None, "MB/s")):
        known = [run for run in runs[1:] if figure in run]
        if not known:
            continue
        value = statistics.median(run[figure] for run in known)
        cells = [f"{value:.1f}"]
        for name in filter(None, (floor, bare)):
            least = statistics.median(run[name] for run in known)
            cells += [f"{least:.1f}", f"{value / least:.2f}"]
        output.row(f"{figure} {unit}", *cells)


def bench_lazy(repetitions, output):
    """Missing pages over the protocol of CRIU's page server."""
    output.line("\nMissing pages from a server over TCP (lazy-pages): what a thread waits for one, alone and while all others "
                "come (busy), and how fast these come,\nbeside one question and answer between two processes, and reading the "
                "same bytes into fresh huge pages. Bare: faults\nthat the simplest loop answers, alone and beside the reading of these bytes.\n")
    missing_pages("page-server", 512, repetitions or 5, output)


def bench_lanes(repetitions, output):
    """Missing pages over the lanes between two ferries."""
    for way, name in (("tcp", "plain TCP"), ("tls", "TLS")):
        output.line(f"\nMissing pages over the lanes of a post-copy, {name} (the floor is always plain TCP):\n")
        missing_pages(way, 256, repetitions or 5, output)


@contextlib.contextmanager
def two_hosts(folder):
    """Two hosts with ferry and the victim."""
    place = folder / "hosts"
    subprocess.run([HOSTS, "up", place, "--ferry", os.environ["FERRY"]], check=True)
    try:
        for host in "ab":
            subprocess.run([HOSTS, "put", place, host, os.environ["BENCH_VICTIM"], "/opt/bench-victim"],
                           check=True)
        yield [Host(place, "a"), Host(place, "b")]
    finally:
        subprocess.run([HOSTS, "down", place], check=False)


def bench_migrate(cases, repetitions, folder, output):
    """The table of migrations."""
    with two_hosts(folder) as hosts:
        output.line("\nferry migrate, from one host to another over ssh:\n")
        output.row("program", "gap ms", "command ms")
        output.row("---", "---", "---")
        for name in cases:
            arguments, mib, usual = CASES[name]
            rounds = [migrated(hosts, arguments, mib)[0] for _ in range((repetitions or usual) + 1)]
            output.row(name, f"{median_of(rounds, 'gap'):.1f}", f"{median_of(rounds, 'time'):.1f}")


def mode_cases(mib):
    """Programs that the modes are measured with: name, arguments, MiB."""
    sizes = sorted({1, min(256, mib), mib})
    return [(f"{size} MiB", ("memory", str(size)), size) for size in sizes] + \
           [(f"{size} MiB, 100 MB/s" , ("writing", str(size), "100"), size) for size in sizes[1:2]]


def bench_modes(mib, repetitions, folder, output):
    """The modes of migrate, over ssh, beside the floor of a transfer."""
    with two_hosts(folder) as hosts:
        output.line("\nThe modes of ferry migrate, over ssh. \"Gap\" is what the program sees, \"frozen\" what ferry says,\n"
                    "\"drain\" the time from running there until all memory is there; the floor is the time in which\n"
                    "the same bytes go through a TCP socket into fresh memory with huge pages.\n")
        output.row("program", "mode", "gap ms", "frozen ms", "rounds", "p50 ms", "p99 ms", "drain ms", "floor ms")
        output.row(*["---"] * 9)
        for name, arguments, size in mode_cases(mib):
            touch_memory(2 * size + 64)
            floor = statistics.median(floor_ms(size * MIB) for _ in range(3))
            for mode in ("stop", "precopy", "postcopy", "hybrid"):
                rounds = [one_mode(hosts, mode, arguments, size) for _ in range((repetitions or 3) + 1)]
                figure = {key: median_of(rounds, key) for key in rounds[0]}
                output.row(name, mode, *(f"{figure[key]:.1f}" for key in ("gap", "frozen")),
                           f"{figure['rounds']:.0f}", *(f"{figure[key]:.2f}" for key in ("p50", "p99")),
                           f"{figure['drain']:.0f}", f"{floor:.0f}")


def page_server(tool, images, port, ready):
    """Starts a page server; returns when it listens."""
    server = subprocess.Popen([tool.program, "page-server", "-D", str(images), "-o", "server.log",
                               "--address", "127.0.0.1", "--port", str(port), "--status-fd", str(ready)],
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=(ready,))
    os.close(ready)
    return server


def one_diskless(tool, arguments, mib, folder):
    """One disk-less migration on this host: dump into a page server, copy the small images, restore.
    Returns the gap that the program sees, and its parts, in ms."""
    source, target = folder / "source", folder / "target"
    touch_memory(3 * mib + 64)
    victim = Victim(folder / "victim", arguments)
    try:
        target.mkdir()
        listening, ready = os.pipe()
        port = 20000 + os.getpid() % 10000
        server = page_server(tool, target, port, ready)
        if os.read(listening, 1) != b"\0":
            raise Failure(f"{tool.name}: the page server does not listen")
        os.close(listening)
        victim.report()
        dump = tool.dump(victim.pid, source, "--page-server", "--address", "127.0.0.1",
                         "--port", str(port))
        if server.wait(COMMAND_LIMIT_S):
            raise Failure(f"{tool.name}: the page server ended with {server.returncode}")
        for image in source.iterdir():
            shutil.copy(image, target)
        wait_until(lambda: not os.path.exists(f"/proc/{victim.pid}"), "the dumped victim")
        restore = tool.restore(target)
        return {"gap": victim.report(), "dump": dump, "restore": restore}
    finally:
        victim.end()
        shutil.rmtree(source, ignore_errors=True)
        shutil.rmtree(target, ignore_errors=True)


def bench_diskless(tools, mib, repetitions, folder, output):
    """Disk-less migration through a page server, beside the floor."""
    rounds = {tool.name: [] for tool in tools}
    floors = []
    for _ in range((repetitions or 3) + 1):
        touch_memory(2 * mib + 64)
        floors.append(floor_ms(mib * MIB))
        for tool in tools:
            rounds[tool.name].append(one_diskless(tool, ("memory", str(mib)), mib, folder))
    floor = statistics.median(floors[1:])
    output.line(f"\n{mib} MiB through a page server: from the freeze to running again. The floor is the time "
                "in which\nthe same bytes go through a TCP socket into fresh memory with huge pages.\n")
    output.row("program", "gap ms", "dump ms", "restore ms", "x floor")
    output.row("---", "---", "---", "---", "---")
    gaps = {}
    for tool in tools:
        gap, dump, restore = (median_of(rounds[tool.name], name) for name in ("gap", "dump", "restore"))
        gaps[tool.name] = gap
        output.row(tool.name, f"{gap:.1f}", f"{dump:.1f}", f"{restore:.1f}", f"{gap / floor:.2f}")
    output.row("the floor", f"{floor:.1f}", "", "", "1.00")
    if len(gaps) == 2:
        output.line(f"\nferry / CRIU: {gaps['ferry'] / gaps['criu']:.2f} (the target is 0.40); "
                    f"ferry / floor: {gaps['ferry'] / floor:.2f} (the target is 2.00).")


OVERLAP_CASES = {
    "1 task": (("tasks", "1"), 1),
    "20 tasks": (("tasks", "20"), 20),
    "200 tasks": (("tasks", "200"), 200),
    "1 GiB": (("memory", "1024"), 1024),
}


# What is compared: do both run at the same time, and how much may each relay hold? Only a restore that runs already can
# empty relays that hold less than there is; what it has had is memory for what comes then.
OVERLAP_WAYS = ((False, "4G"), (True, "4G"), (True, "128M"))


def one_overlap(program, arguments, mib, way, folder):
    """From the freeze to running again, through image-proxy and image-cache: the gap that the program sees, ms."""
    together, max_memory = way
    touch_memory(3 * mib + 64)
    relays = folder / "relays"
    relays.mkdir()
    victim = Victim(folder / "victim", arguments)
    try:
        with Relays(program, relays, max_memory) as both:
            victim.report()
            victim.pid = both.move(victim.pid, together)
            return victim.report()
    except RuntimeError as error:
        raise Failure(error) from error
    finally:
        victim.end()
        shutil.rmtree(relays, ignore_errors=True)


def bench_overlap(program, repetitions, folder, output):
    """What it gains that the restore works while the dump still does."""
    output.line("\nMigration over sockets: from the freeze to running again, when the restore begins after the dump, "
                "and when both\nrun at the same time, through relays that hold everything, and 128 MiB each.\n")
    output.row("program", "apart ms", "together ms", "ratio", "128 MiB ms", "ratio")
    output.row("---", "---", "---", "---", "---", "---")
    for name, (arguments, mib) in OVERLAP_CASES.items():
        rounds = [[one_overlap(program, arguments, mib, way, folder) for way in OVERLAP_WAYS]
                  for _ in range((repetitions or 3) + 1)][1:]
        apart, together, bounded = (statistics.median(entry[i] for entry in rounds) for i in (0, 1, 2))
        output.row(name, f"{apart:.1f}", f"{together:.1f}", f"{together / apart:.2f}", f"{bounded:.1f}",
                   f"{bounded / apart:.2f}")


def kept_bytes(images):
    """Bytes of the pages images in a directory."""
    return sum(path.stat().st_size for path in images.glob("pages-*.img"))


PRECOPY_ROUNDS = 3
PRECOPY_RATE = 100  # MB/s that the program writes


def one_precopy(tool, mib, folder):
    """A plain dump of a tree that writes and runs on, then rounds of pre-dump and the dump that builds
    on them: the gap that the program sees in each, ms, and what each writes, MiB."""
    result = {}
    touch_memory(3 * mib + 64)
    victim = Victim(folder / "victim", ("writing", str(mib), str(PRECOPY_RATE)))
    try:
        victim.report()
        tool.dump(victim.pid, folder / "plain", "-R")
        result["plain dump"] = (victim.report(), kept_bytes(folder / "plain") / MIB)
        shutil.rmtree(folder / "plain")
        previous = []
        for number in range(1, PRECOPY_ROUNDS + 2):
            last = number > PRECOPY_ROUNDS
            images = folder / f"level{number}"
            images.mkdir()
            name = "dump" if last else f"pre-dump {number}"
            victim.report()
            run_timed([tool.program, "dump" if last else "pre-dump", "-t", str(victim.pid), "-D", str(images),
                       "-o", "log", *previous, *(["-R"] if last else [])])
            result[name] = (victim.report(), kept_bytes(images) / MIB)
            previous = ["--prev-images-dir", f"../level{number}"]
    finally:
        victim.end()
        for path in folder.glob("level*"):
            shutil.rmtree(path, ignore_errors=True)
    return result


def bench_precopy(mib, repetitions, folder, output):
    """Pre-copy. CRIU needs soft-dirty bits for it, which few kernels have."""
    tool = Tool("ferry", os.environ["FERRY"])
    rounds = [one_precopy(tool, mib, folder) for _ in range((repetitions or 3) + 1)][1:]
    output.line(f"\n{mib} MiB, of which the program writes {PRECOPY_RATE} MB/s: a plain dump, and one after "
                f"{PRECOPY_ROUNDS} rounds of pre-dump\n(ferry only): the longest time for which the program "
                "does not run, and what is written.\n")
    output.row("step", "gap ms", "MiB")
    output.row("---", "---", "---")
    for step in rounds[0]:
        gap, written = (statistics.median(entry[step][i] for entry in rounds) for i in (0, 1))
        output.row(step, f"{gap:.1f}", f"{written:.1f}")


def bench_tls(repetitions, output):
    """What a tunnel carries, beside what its cipher does alone."""
    found = rates(os.environ["BENCH_TRANSPORT"], 1024, repetitions or 5)
    output.line("\n1 GiB over the loopback, through TLS as ferry migrate has it and over plain TCP. \"Sealing\" and \"opening\" "
                "are by the\nprocessor's time of the tunnel's threads: what one core could carry; the ratio is to what "
                "openssl speed says of the cipher.\n")
    output.row("connections", "plain MB/s", "TLS MB/s", "seal MB/s", "ratio", "open MB/s", "ratio", "openssl")
    output.row(*["---"] * 8)
    for n in (1, 2):
        seal, opening, cipher = found[f"tls_seal {n}"], found[f"tls_open {n}"], found["cipher"]
        output.row(str(n), f"{found[f'plain {n}']:.0f}", f"{found[f'tls {n}']:.0f}", f"{seal:.0f}", f"{seal / cipher:.2f}",
                   f"{opening:.0f}", f"{opening / cipher:.2f}", f"{cipher:.0f}")
    bench_ceiling(found, output)


def bench_ceiling(found, output):
    """What a program that does nothing but call libssl and the kernel reaches, and how far a tunnel is below it."""
    def chain(*rates):
        return 1 / sum(1 / rate for rate in rates)

    cipher = found["cipher"]
    ends = [("sending", found["tls_seal 1"], "send", "receive"), ("receiving", found["tls_open 1"], "receive", "send")]
    output.line("\nThe same by a loop that does nothing else, in one thread at each end, with 16 MiB of buffers in the kernel: "
                "\"copy\" is\nwrite(2) or read(2) of the same bytes, \"a record\" SSL_write or SSL_read by itself, \"256 KiB\" "
                "the same with as much\nfor a system call: the ceiling. \"Hop\" is the ceiling with the copy between the tunnel's "
                "thread and its user.\n")
    output.row("end", "copy MB/s", "a record", "256 KiB", "x openssl", "hop", "ferry", "x 256 KiB", "x hop")
    output.row(*["---"] * 9)
    for name, ferry, way, other in ends:
        copy, record, ceiling = (found[f"{kind}_{way} 1"] for kind in ("copy", "record", "gather"))
        hop = chain(ceiling, found[f"hop_{other} 1"])
        output.row(name, f"{copy:.0f}", f"{record:.0f}", f"{ceiling:.0f}", f"{ceiling / cipher:.2f}", f"{hop:.0f}",
                   f"{ferry:.0f}", f"{ferry / ceiling:.2f}", f"{ferry / hop:.2f}")


def bench_transport(mib, repetitions, folder, output):
    """What TLS costs a migration that stops the program for all of it."""
    bench_tls(repetitions, output)
    ways = {"plain": ("--insecure-plain-tcp",), "TLS": ("--transport=tls",), "ssh": ("--transport=ssh",)}
    output.line(f"\nferry migrate --mode=stop of {mib} MiB that cannot be compressed, from one host to another.\n")
    output.row("transport", "gap ms", "x plain", "command ms", "x plain")
    output.row(*["---"] * 5)
    with two_hosts(folder) as hosts:
        rounds = [{way: migrated(hosts, ("memory", str(mib)), mib, "--mode=stop", "--compress=none", *options)[0]
                   for way, options in ways.items()} for _ in range((repetitions or 5) + 1)][1:]
    median = {way: {figure: statistics.median(entry[way][figure] for entry in rounds) for figure in ("gap", "time")}
              for way in ways}
    for way, figures in median.items():
        plain = median["plain"]
        output.row(way, f"{figures['gap']:.1f}", f"{figures['gap'] / plain['gap']:.2f}", f"{figures['time']:.1f}",
                   f"{figures['time'] / plain['time']:.2f}")


COMPRESS_MIB = 64
LINKS = {"as it is": None, "1 Gbit/s": "1gbit", "200 Mbit/s": "200mbit"}
COMPRESS = ("none", "auto", "lz4", "zstd")


@contextlib.contextmanager
def shaped(hosts, rate):
    """The way from the first host to the second is no faster than that."""
    shaper = ("root", "tbf", "rate", rate, "burst", "256kb", "latency", "50ms")
    if rate:
        run_timed([*hosts[0].prefix(), "tc", "qdisc", "add", "dev", "eth0", *shaper])
    try:
        yield
    finally:
        if rate:
            run_timed([*hosts[0].prefix(), "tc", "qdisc", "del", "dev", "eth0", "root"])


def one_compress(hosts, arguments, compress):
    """A migration that stops the program for all of it: its gap, ms, and what was sent, MiB."""
    figures, text = migrated(hosts, arguments, COMPRESS_MIB, "--json", "--mode=stop", "--transport=tls",
                             f"--compress={compress}")
    moved = next(event for event in map(json.loads, filter(lambda line: line.startswith("{"), text.splitlines()))
                 if event["event"] == "moved")
    return {"gap": figures["gap"], "sent": moved["sent_bytes"] / MIB}


def bench_compress(repetitions, folder, output):
    """What is gained, or lost, by measuring whether compression pays."""
    output.line(f"\nferry migrate --mode=stop --transport=tls of {COMPRESS_MIB} MiB, by link and memory: the gap in ms, and what went, "
                "MiB.\n")
    output.row("link", "memory", *(word for how in COMPRESS for word in (f"{how} ms", "MiB")), "auto/none", "auto/best")
    output.row(*["---"] * (4 + 2 * len(COMPRESS)))
    with two_hosts(folder) as hosts:
        for link, rate in LINKS.items():
            for memory in ("memory", "text"):
                with shaped(hosts, rate):
                    rounds = [{how: one_compress(hosts, (memory, str(COMPRESS_MIB)), how) for how in COMPRESS}
                              for _ in range((repetitions or 5) + 1)][1:]
                median = {how: {figure: statistics.median(entry[how][figure] for entry in rounds)
                                for figure in ("gap", "sent")} for how in COMPRESS}
                gaps = {how: figures["gap"] for how, figures in median.items()}
                output.row(link, "noise" if memory == "memory" else memory,
                           *(word for how in COMPRESS for word in (f"{gaps[how]:.0f}", f"{median[how]['sent']:.0f}")),
                           f"{gaps['auto'] / gaps['none']:.2f}", f"{gaps['auto'] / min(gaps.values()):.2f}")


def describe(tools, output):
    """What was measured, and where."""
    versions = []
    for tool in tools:
        text = subprocess.run([tool.program, "--version"], check=False, stdout=subprocess.PIPE,
                              text=True).stdout.split("\n")[0]
        versions.append(text)
    cpus = len(os.sched_getaffinity(0))
    output.line(f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC, "
                f"Linux {platform.release()}, {cpus} CPUs; {', '.join(versions)}\n")


def parse_options():
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench/run.sh", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=CASES, help="only this one; may be repeated")
    parser.add_argument("--repetitions", type=int, help="how many, besides the one thrown away")
    parser.add_argument("--only", choices=("dump", "diskless", "overlap", "precopy", "lazy", "lanes", "migrate",
                                           "modes", "transport", "compress"), help="only this part")
    parser.add_argument("--mib", type=int, default=1024, help="memory of the disk-less migration, and the most of the modes")
    parser.add_argument("--tool", choices=("ferry", "criu"), help="only this program")
    parser.add_argument("--dir", default="/dev/shm", help="where images are written")
    parser.add_argument("--save", action="store_true", help="also write the tables to bench/results.md")
    return parser.parse_args()


def main():
    """Runs what the options ask for; 1 if anything failed."""
    options = parse_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cases = options.case or list(CASES)
    tools = [Tool(name, os.environ[name.upper()]) for name in ("ferry", "criu")
             if os.environ[name.upper()] and options.tool in (None, name)]
    output = Output()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ferry-bench.", dir=options.dir))
    try:
        describe(tools, output)
        if options.only in (None, "dump"):
            bench_tools(tools, cases, options.repetitions, folder, output)
        if options.only in (None, "diskless"):
            bench_diskless(tools, options.mib, options.repetitions, folder, output)
        if options.only in (None, "overlap") and options.tool != "criu":
            bench_overlap(os.environ["FERRY"], options.repetitions, folder, output)
        if options.only in (None, "precopy") and options.tool != "criu":
            bench_precopy(options.mib, options.repetitions, folder, output)
        if options.only in (None, "lazy") and options.tool != "criu":
            bench_lazy(options.repetitions, output)
        if options.only in (None, "lanes") and options.tool != "criu":
            bench_lanes(options.repetitions, output)
        if options.only in (None, "migrate") and options.tool != "criu":
            bench_migrate(cases, options.repetitions, folder, output)
        if options.only in (None, "modes") and options.tool != "criu":
            bench_modes(options.mib, options.repetitions, folder, output)
        if options.only in (None, "transport") and options.tool != "criu":
            bench_transport(min(options.mib, 256), options.repetitions, folder, output)
        if options.only in (None, "compress") and options.tool != "criu":
            bench_compress(options.repetitions, folder, output)
    except (Failure, subprocess.SubprocessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if options.save:
        (TOP / "bench/results.md").write_text("# Results\n\n" + "\n".join(output.lines) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
