"""Ten thousand connections held: what one costs, and that nothing is left when they go."""

from tests.load import _many
from tests.load._options import run


def main(arguments: list[str]) -> int:
    """Run it."""
    return run("hold", _many.hold, _many.held, arguments, connections=10_000, quiet=16.0)
