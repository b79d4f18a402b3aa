"""Clients that ask and never read beside clients that behave."""

from tests.load import _attacks
from tests.load._options import run


def main(arguments: list[str]) -> int:
    """Run it."""
    return run("deaf", _attacks.deaf, _attacks.judge, arguments, rounds=5, seconds=5.0, most=1.2)
