#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The documentation says what the program does.

* ferry(1) has a section for every command of `ferry --help`, and each lists exactly the options
  that `ferry COMMAND --help` lists
* ferry-kinds(7) has an entry for every kind of the registry, and no other; ferry-protocol(7) for
  every message
* manual pages are free of mandoc's warnings
* links and paths of src/ in the documents lead somewhere
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FERRY = os.environ.get("FERRY", str(ROOT / "build/src/cmd/ferry"))
MANUALS = sorted((ROOT / "doc").glob("*.[1-8]"))
DOCUMENTS = sorted(ROOT.glob("*.md"))

OPTION_LINE = re.compile(r"^\s+(?:(-\w),? +)?(--[a-z][a-z0-9-]*)")
COMMAND_LINE = re.compile(r"^  ([a-z][a-z-]*)\s{2,}\S")


def help_of(*command):
    result = subprocess.run([FERRY, *command, "--help"], capture_output=True, text=True,
                            timeout=20, stdin=subprocess.DEVNULL)
    if result.returncode:
        complain(f"ferry {' '.join(command)} --help: exit status {result.returncode}")
    return result.stdout


problems = []


def complain(text):
    problems.append(text)


def help_options(command):
    """Each option as (short or None, long)."""
    found = set()
    for line in help_of(command).splitlines():
        match = OPTION_LINE.match(line)
        if match and match.group(2) != "--help":
            found.add((match.group(1), match.group(2)))
    return found


def manual_sections(path):
    """Text of each .Ss section of DESCRIPTION and COMMANDS, by its title."""
    sections, title = {}, None
    for line in path.read_text().splitlines():
        if line.startswith(".Ss "):
            title = line[4:].strip().strip('"')
            sections[title] = []
        elif line.startswith(".Sh "):
            title = None
        elif title is not None:
            sections[title].append(line)
    return sections


def manual_options(sections, title):
    """.It Fl t , Fl -tree Ar PID   ->   ("-t", "--tree"); also of the sections it refers to."""
    found = set()
    for line in sections[title]:
        if line.startswith(".Sx ") and " options" in line:
            found |= manual_options(sections, re.sub(r" [.,]$", "", line[4:]))
        if not line.startswith(".It Fl "):
            continue
        names = ["-" + flag for flag in re.findall(r"Fl (-?[a-zA-Z][a-zA-Z0-9-]*)", line)]
        longs = [name for name in names if name.startswith("--")]
        shorts = [name for name in names if not name.startswith("--")]
        for name in longs:
            found.add((shorts[0] if shorts else None, name))
    return found


def check_commands():
    commands = {match.group(1) for match in map(COMMAND_LINE.match, help_of().splitlines())
                if match}
    if not commands:
        complain("ferry --help lists no commands")
    sections = manual_sections(ROOT / "doc/ferry.1")
    documented = {title.removeprefix("ferry ") for title in sections if title.startswith("ferry ")}
    for command in sorted(commands - documented):
        complain(f"doc/ferry.1: no section for ferry {command}")
    for command in sorted(documented - commands):
        complain(f"doc/ferry.1: ferry --help does not know {command}")
    for command in sorted(commands & documented):
        have = help_options(command)
        told = manual_options(sections, "ferry " + command)
        for short, name in sorted(have - told, key=str):
            complain(f"doc/ferry.1: ferry {command}: {short or ''} {name} is not documented")
        for short, name in sorted(told - have, key=str):
            complain(f"doc/ferry.1: ferry {command}: {short or ''} {name} is not in --help")


def registered_kinds():
    """Names of the tables in the registry's files."""
    names = set()
    table = re.compile(r"^const struct (?:fd|task|tree)_kind (\w+) = \{(.*?)^\};", re.M | re.S)
    registry = (ROOT / "src/kinds/kinds.c").read_text()
    for path in sorted((ROOT / "src/kinds").rglob("*.c")):
        for symbol, body in table.findall(path.read_text()):
            name = re.search(r'\.name = "([^"]+)"', body)
            if name and re.search(rf"&{symbol}\b", registry):
                names.add(name.group(1))
            elif name:
                complain(f"{path.relative_to(ROOT)}: {symbol} is not in the registry")
    return names


def check_kinds():
    have = registered_kinds()
    told = set(re.findall(r"^\.It Sy (\S+)", (ROOT / "doc/ferry-kinds.7").read_text(), re.M))
    if not have:
        complain("src/kinds/kinds.c: found no kinds")
    for name in sorted(have - told):
        complain(f"doc/ferry-kinds.7: no entry for the kind {name}")
    for name in sorted(told - have):
        complain(f"doc/ferry-kinds.7: {name} is not in the registry")


def check_protocol():
    """ferry-protocol(7) names every message and every stage."""
    page = (ROOT / "doc/ferry-protocol.7").read_text()
    told = set(re.findall(r"^\.It Sy (\S+)", page, re.M))
    source = (ROOT / "src/wire/msg.c").read_text()
    have = set(re.findall(r'\.name = "([a-z-]+)"', source))
    for name in sorted(have ^ told):
        complain(f"doc/ferry-protocol.7: the message {name} is not in both page and src/wire/msg.c")
    for name in re.findall(r'\[WIRE_STAGE_\w+\] = "(\w+)"', source):
        if not re.search(rf"^\.Em {name} :", page, re.M):
            complain(f"doc/ferry-protocol.7: no stage {name}")


def check_manuals():
    if not shutil.which("mandoc"):
        complain("mandoc is not installed")
        return
    result = subprocess.run(["mandoc", "-Tlint", "-W", "warning",
                             *(str(path.relative_to(ROOT)) for path in MANUALS)],
                            capture_output=True, text=True, cwd=ROOT)
    for line in (result.stdout + result.stderr).splitlines():
        complain(line)
    listed = (ROOT / "doc/meson.build").read_text()
    for path in MANUALS:
        if f"'{path.name}'" not in listed:
            complain(f"doc/{path.name}: not installed by doc/meson.build")


def check_links():
    for path in DOCUMENTS + MANUALS:
        text = path.read_text()
        for target in re.findall(r"\]\(([^)#\s]+)\)", text) if path.suffix == ".md" else []:
            if "://" not in target and not (path.parent / target).exists():
                complain(f"{path.name}: link to {target}, which does not exist")
        for target in re.findall(r"(?<![\w/])((?:src|tests|tools|doc|proto|bench|demo)/[\w./-]*\w)", text):
            if "NAME" in target or "LAYER" in target:
                continue
            if not (ROOT / target).exists():
                complain(f"{path.name}: {target} does not exist")


def main():
    if not os.access(FERRY, os.X_OK):
        print(f"{FERRY}: not built")
        return 77
    check_commands()
    check_kinds()
    check_protocol()
    check_manuals()
    check_links()
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
