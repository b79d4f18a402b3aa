"""The command lines of the edge's loads: options, one JSON object on the last line, the exit code."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

Work = Callable[[argparse.Namespace], dict[str, Any]]
# What is wrong with what was found, a sentence each.
Judge = Callable[[argparse.Namespace, dict[str, Any]], list[str]]


def run(name: str, work: Work, judge: Judge, arguments: list[str], **numbers: float) -> int:
    """Do the work with its options, which are numbers with their defaults; 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.load {name}", description=work.__doc__)
    for option, default in numbers.items():
        parser.add_argument(f"--{option}", type=type(default), default=default, help=f"default {default}")
    if name == "hold":
        parser.add_argument("--transport", choices=("tcp", "websocket", "tls"), default="tcp")
    options = parser.parse_args(arguments)
    found = work(options)
    wrong = judge(options, found)
    for sentence in wrong:
        print(f"wrong: {sentence}", file=sys.stderr)
    print(json.dumps({"load": name, **found, "wrong": wrong}))
    return int(bool(wrong))


def left(found: dict[str, Any]) -> list[str]:
    """What is still there of connections that are gone."""
    return [f"{name} is {value}, not 0" for name, value in found.items() if name.endswith("_left") and value]
