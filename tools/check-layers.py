#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Includes go down the list of layers and nowhere else.

A folder of src/ is a layer. A file may include headers of its own layer and of the layers below.
capture and restore are on one level and do not see each other. Generated protobuf headers may be
used above base.
"""
import pathlib
import re
import sys

LEVELS = [
    ["base"],
    ["kernel"],
    ["blob"],
    ["wire"],
    ["store"],
    ["snapshot"],
    ["mem"],
    ["kinds"],
    ["capture", "restore"],
    ["lazyfs"],
    ["migrate"],
    ["cmd"],
]
PROTO_FROM = "kernel"

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^">]+)[">]')


def level_of():
    return {name: i for i, names in enumerate(LEVELS) for name in names}


def check_file(path, layer, level, src):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        quote, target = match.groups()
        where = f"{path}:{number}"
        if target.endswith(".pb-c.h"):
            if level[layer] < level[PROTO_FROM]:
                yield f"{where}: {layer} includes {target}; images are known from {PROTO_FROM} upwards"
            continue
        if quote == "<":
            if target.split("/")[0] in level and (src / target).exists():
                yield f'{where}: write #include "{target}"'
            continue
        other = target.split("/")[0]
        if target.startswith(".") or other not in level:
            if not (path.parent / target).exists() or target.startswith("."):
                yield f'{where}: "{target}" is neither LAYER/NAME.h nor beside this file'
            else:
                yield f'{where}: name the layer: "{layer}/{target}"'
            continue
        if other != layer and level[other] >= level[layer]:
            yield f"{where}: {layer} includes {target}; {other} is not below it"


def main():
    src = pathlib.Path(__file__).resolve().parent.parent / "src"
    level = level_of()
    problems = []
    for folder in sorted(p for p in src.iterdir() if p.is_dir()):
        if folder.name not in level:
            problems.append(f"{folder}: not a layer that {sys.argv[0]} knows")
            continue
        for path in sorted(folder.rglob("*.[chS]")):
            problems += check_file(path, folder.name, level, src)
    for problem in problems:
        print(problem.replace(f"{src.parent}/", ""))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
