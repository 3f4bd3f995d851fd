#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Rules of the sources that no compiler knows; HACKING.md says why.

* the first line names the licence
* a .c file has at most 800 lines, a header 300; a function at most 100
* no unfinished-business words
* exit, abort and assert only in src/cmd; a forked child ends by _exit
* every .c file is named in a meson.build
* no names of this project's machines or absolute paths of its work trees
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SPDX = "SPDX-License-Identifier: Apache-2.0"
MAX_C, MAX_H, MAX_FUNCTION = 800, 300, 100

WORDS = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")
EXIT = re.compile(r"(?<![\w.>])(exit|abort|assert|err|errx)\s*\(")
COMMENT = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', re.S)


def blank(match):
    """Comments and strings become blank lines of the same number."""
    return "\n" * match.group().count("\n")


def functions(lines):
    """(first line, length) of each function body: { and } in column 0."""
    start = None
    for number, line in enumerate(lines, 1):
        if line.startswith("{"):
            start = number
        elif line.startswith("}") and start is not None:
            if line.rstrip() == "}":
                yield start, number - start + 1
            start = None


def check_text(path, text):
    for number, line in enumerate(text.splitlines(), 1):
        if WORDS.search(line):
            yield number, f"{WORDS.search(line).group()}: finish it or file an issue"
        if re.search(r"(?<![\w.])/work" + "/", line):
            yield number, "a path of somebody's work tree"


def check_c(path, text):
    lines = text.splitlines()
    limit = MAX_H if path.suffix == ".h" else MAX_C
    if len(lines) > limit:
        yield 1, f"{len(lines)} lines; at most {limit}"
    for start, length in functions(lines):
        if length > MAX_FUNCTION:
            yield start, f"function of {length} lines; at most {MAX_FUNCTION}"
    in_src = path.is_relative_to(ROOT / "src")
    if in_src and not path.is_relative_to(ROOT / "src/cmd"):
        for number, line in enumerate(COMMENT.sub(blank, text).splitlines(), 1):
            match = EXIT.search(line)
            if match:
                yield number, f"{match.group(1)}() outside src/cmd: return an error"


def unlisted():
    """Sources that no meson.build above them names."""
    for path in sorted([*(ROOT / "src").rglob("*.c"), *(ROOT / "tests").rglob("*.c")]):
        folder, listed = path.parent, False
        while folder != ROOT and not listed:
            build = folder / "meson.build"
            name = re.escape(str(path.relative_to(folder)))
            stem = re.escape(str(path.relative_to(folder).with_suffix("")))
            listed = build.exists() and re.search(f"'({name}|{stem})'", build.read_text())
            folder = folder.parent
        if not listed:
            yield path


def files():
    for folder in ("src", "tests", "tools", "proto", "demo", "bench", ".ci"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix in (".c", ".h", ".S", ".py", ".sh", ".lds", ".build",
                                                  ".proto", ""):
                if "__pycache__" not in path.parts and "corpus" not in path.parts:
                    yield path


def main():
    bad = 0
    for path in files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        problems = list(check_text(path, text))
        if SPDX not in "\n".join(text.splitlines()[:3]):
            problems.append((1, "no SPDX line"))
        if path.suffix in (".c", ".h"):
            problems += check_c(path, text)
        for number, problem in sorted(problems):
            print(f"{path.relative_to(ROOT)}:{number}: {problem}")
            bad += 1
    for path in unlisted():
        print(f"{path.relative_to(ROOT)}: not in any meson.build")
        bad += 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
