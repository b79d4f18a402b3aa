"""The command lines of the edge's loads: options, and one JSON object on the last line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any


def run(
    name: str, work: Callable[[argparse.Namespace], dict[str, Any]], arguments: list[str], **numbers: float
) -> int:
    """Do the work with its options, which are numbers with their defaults, and print what it found."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.load {name}", description=work.__doc__)
    for option, default in numbers.items():
        parser.add_argument(f"--{option}", type=type(default), default=default, help=f"default {default}")
    if name == "hold":
        parser.add_argument("--transport", choices=("tcp", "websocket", "tls"), default="tcp")
    print(json.dumps({"load": name, **work(parser.parse_args(arguments))}))
    return 0
