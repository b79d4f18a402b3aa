"""A flood of TLS handshakes that are never ended beside clients that behave."""

from tests.load import _attacks
from tests.load._options import run


def main(arguments: list[str]) -> int:
    """Run it."""
    return run(
        "handshakes",
        _attacks.handshakes,
        _attacks.judge,
        arguments,
        rounds=5,
        seconds=5.0,
        most=1.2,
        piled=500,
    )
