#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws what --timeline wrote as SVG: a lane for each process, time from left to right, one clock.

  timeline-picture.py FILE >PICTURE.svg
  timeline-picture.py --from freeze FILE >PICTURE.svg    # begins where a step of this name begins

Steps are boxes with their names, below each other where they do not fit or overlap; the shortest have no name. Moments of images (the cache has
answered for one) are ticks in one row, with their number; other moments are lines with a name. Nothing is told by
colour only. Pointing at a box or tick shows its name and time.
"""
import argparse
import html
import json

LEFT, WIDTH, ROW, GAP, TOP, LETTER = 112, 860, 20, 14, 16, 6.4
ORDER = ("dump", "image-proxy", "image-cache", "restore")  # the way of the images
SHADES = ("#dce6f0", "#f2e3d3", "#dcebdc", "#e8dfee")


def read(path, first):
    """Events by process, in the order of the first event of each; the closing bracket of the file is optional."""
    with open(path, encoding="utf-8") as file:
        text = file.read().rstrip().rstrip(",")
    events = json.loads(text if text.endswith("]") else text + "]")
    names = {event["pid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    events = sorted((e for e in events if e["ph"] != "M"), key=lambda e: e["ts"])
    start = min((e["ts"] for e in events if e["name"] == first), default=None) if first else events[0]["ts"]
    if start is None:
        raise SystemExit(f"timeline-picture: there is no step '{first}'")
    lanes = {}
    for event in events:
        if event["ts"] + event.get("dur", 0) >= start:
            lanes.setdefault(names[event["pid"]], []).append(event)
    in_order = sorted(lanes, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
    return start, {name: lanes[name] for name in in_order}


def text(x, y, content, anchor="start", extra=""):
    """A line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{html.escape(content)}</text>'


def title(event):
    """What shows when one points at it."""
    took = f': {event["dur"] / 1000:.2f} ms' if "dur" in event else ""
    return f"<title>{html.escape(event['name'] + took)}</title>"


class Picture:
    """Collects the elements; grows downwards."""

    def __init__(self, start, end):
        self.start = start
        self.scale = WIDTH / max(end - start, 1)
        self.y = TOP
        self.parts = []

    def x_of(self, ts):
        """Where a moment is; what was before the picture is at its edge."""
        return LEFT + max(ts - self.start, 0) * self.scale

    def boxes(self, spans, shade):
        """Steps, each in the first row where it and its name find room. Returns the number of rows."""
        ends = []
        for event in spans:
            x = self.x_of(event["ts"])
            width = self.x_of(event["ts"] + event["dur"]) - x
            name = event["name"] if width >= 1 else ""  # what took no time shows when one points at it
            width = max(width, 1.5)
            label = len(name) * LETTER + 8
            beside = label > width
            left = beside and x + width + label > LEFT + WIDTH
            begin, end = (x - label if left else x), (x + width + (label if beside and not left else 0))
            row = next((i for i, taken in enumerate(ends) if taken <= begin), len(ends)) if name else 0
            if name:
                ends[row:row + 1] = [end + 2]
            y = self.y + row * ROW
            self.parts.append(f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{ROW - 4}" fill="{shade}" '
                              f'stroke="#333" stroke-width="0.8">{title(event)}</rect>')
            at, anchor = (x - 4, "end") if left else (x + (width if beside else 0) + 4, "start")
            if name:
                self.parts.append(text(at, y + 12, name, anchor))
        return len(ends)

    def ticks(self, marks, row):
        """Moments of images: one row of ticks, and how many there are."""
        y = self.y + row * ROW
        for event in marks:
            x = self.x_of(event["ts"])
            self.parts.append(f'<path d="M{x:.1f} {y}v{ROW - 6}" stroke="#333" stroke-width="0.8">{title(event)}</path>')
        x = self.x_of(marks[-1]["ts"])
        self.parts.append(text(x + 4, y + 11, f"{len(marks)} images handed out"))

    def moments(self, marks, row):
        """Other moments: a line over the lane, and a name."""
        for event in marks:
            x = self.x_of(event["ts"])
            y = self.y + row * ROW
            late = x > LEFT + WIDTH * 0.8
            self.parts.append(f'<path d="M{x:.1f} {self.y - 3}V{y + ROW - 6}" stroke="black" stroke-width="1.6">'
                              f"{title(event)}</path>")
            self.parts.append(text(x + (-4 if late else 4), y + 11, event["name"], "end" if late else "start",
                                   ' font-weight="bold"'))

    def lane(self, name, events, shade):
        """All of one process."""
        self.parts.append(text(LEFT - 8, self.y + 12, name, "end", ' font-weight="bold"'))
        rows = self.boxes([e for e in events if e["ph"] == "X"], shade)
        images = [e for e in events if e["ph"] != "X" and e["name"].endswith(".img")]
        others = [e for e in events if e["ph"] != "X" and not e["name"].endswith(".img")]
        if images:
            self.ticks(images, rows)
            rows += 1
        if others:
            self.moments(others, rows)
            rows += 1
        self.y += rows * ROW + GAP
        self.parts.append(f'<path d="M4 {self.y - GAP / 2}H{LEFT + WIDTH}" stroke="#bbb"/>')

    def svg(self, ms):
        """The whole, with a scale below."""
        step = next(s * 10 ** p for p in range(-2, 6) for s in (1, 2, 5) if ms / (s * 10 ** p) <= 10)
        for i in range(int(ms / step) + 1):
            x = self.x_of(self.start + i * step * 1000)
            self.parts.insert(0, f'<path d="M{x:.1f} {TOP - 6}V{self.y}" stroke="#ddd"/>')
            self.parts.append(text(x, self.y + 12, f"{i * step:g} ms", "middle", ' fill="#444"'))
        head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 24} {self.y + 22}" '
                'font-family="sans-serif" font-size="11.5">')
        return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *self.parts, "</svg>"])


def main():
    """Reads, draws, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--from", dest="first", metavar="STEP", help="begin where this step begins")
    parser.add_argument("file")
    args = parser.parse_args()
    start, lanes = read(args.file, args.first)
    end = max(e["ts"] + e.get("dur", 0) for lane in lanes.values() for e in lane)
    picture = Picture(start, end)
    for i, (name, lane) in enumerate(lanes.items()):
        picture.lane(name, lane, SHADES[i % len(SHADES)])
    print(picture.svg((end - start) / 1000))


if __name__ == "__main__":
    main()
