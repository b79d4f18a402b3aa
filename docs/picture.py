"""The picture in the README: a real run in a real terminal, as docs/demo.svg.

    .venv/bin/python docs/picture.py                          runs `make demo` (needs tmux)
    .venv/bin/python docs/picture.py --output x.svg COMMAND   another command

tmux is the terminal: it keeps what a person would see, colours included; rich draws that as SVG.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import time
from html import unescape
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
COLUMNS, LINES = 84, 60
MOST_S = 900.0
"""Longer than the first `make demo` of a fresh clone, which builds everything."""

COLOURS = "12161e f07178 7fd88f f0c674 61afef c692e9 56c8d8 abb2bf"
"""Black, red, green, yellow, blue, magenta, cyan, white."""


def rgb(text: str) -> tuple[int, int, int]:
    """Three bytes of hexadecimal digits."""
    red, green, blue = bytes.fromhex(text)
    return red, green, blue


THEME = TerminalTheme(rgb("12161e"), rgb("d6dce6"), [rgb(text) for text in COLOURS.split()])
# No web font: a page that shows the file as an image may not load one.
FORMAT = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, "Cascadia Mono", Menlo, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""


def terminal(command: list[str]) -> tuple[str, int]:
    """What stands on the screen when the command is through, with its colours, and its exit code."""
    code_file = Path("/tmp") / f"picture-{os.getpid()}.code"
    tmux = ["tmux", "-L", f"picture-{os.getpid()}", "-f", "/dev/null"]
    script = f"cd {shlex.quote(str(ROOT))}; {shlex.join(command)}; echo $? > {code_file}; sleep 60"
    size = ["-x", str(COLUMNS), "-y", str(LINES)]
    subprocess.run([*tmux, "new-session", "-d", *size, "sh", "-c", script], check=True)
    try:
        deadline = time.monotonic() + MOST_S
        while not (code_file.exists() and code_file.read_text().strip()):
            if time.monotonic() > deadline:
                raise SystemExit(f"not through after {MOST_S:.0f} s")
            time.sleep(0.2)
        capture = [*tmux, "capture-pane", "-p", "-e"]
        screen = subprocess.run(capture, check=True, capture_output=True, text=True).stdout
        return screen, int(code_file.read_text())
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)
        code_file.unlink(missing_ok=True)


def picture(screen: str, prompt: str) -> str:
    """The screen as SVG, below the command that was typed."""
    lines = [line.rstrip() for line in screen.rstrip().splitlines()]
    with open(os.devnull, "w") as nowhere:
        console = Console(
            record=True, width=COLUMNS, file=nowhere, force_terminal=True, color_system="truecolor"
        )
        console.print(Text.assemble(("$ ", "green"), (prompt, "bold")))
        for line in lines:
            console.print(Text.from_ansi(line), soft_wrap=True)
        return unindented(console.export_svg(title="", theme=THEME, code_format=FORMAT, unique_id="zmqgame"))


def unindented(svg: str) -> str:
    """Each text begins at its first letter: some programs drop spaces before it, others draw them."""

    def moved(found: re.Match[str]) -> str:
        spaces = found["spaces"].count("&#160;")
        width = float(found["length"])
        step = width / (spaces + len(unescape(found["rest"])))
        x, length = float(found["x"]) + spaces * step, width - spaces * step
        place = f'{found["head"]}x="{x:g}"{found["y"]}textLength="{length:g}"{found["clip"]}'
        return f"{place}>{found['rest']}</text>"

    pattern = (
        r'(?P<head><text [^>]*?)x="(?P<x>[\d.]+)"(?P<y>[^>]*?)textLength="(?P<length>[\d.]+)"(?P<clip>[^>]*)>'
        r"(?P<spaces>(?:&#160;)+)(?P<rest>[^<]+)</text>"
    )
    return re.sub(pattern, moved, svg)


def main() -> int:
    """Run, draw, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "demo.svg")
    parser.add_argument("command", nargs="*", default=["make", "demo"])
    options = parser.parse_args()
    subprocess.run(["make", "-C", ROOT, "build"], check=True)  # what it says is no part of the picture
    screen, code = terminal(options.command)
    if code:
        print(screen, file=sys.stderr)
        return code
    options.output.write_text(picture(screen, " ".join(options.command)))
    print(f"{options.output}: {len(screen.rstrip().splitlines())} lines")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
