"""A thousand connections opened and closed a second, in all ways: that nothing is left of them."""

from tests.load import _many
from tests.load._options import run


def main(arguments: list[str]) -> int:
    """Run it."""
    return run("churn", _many.churn, _many.churned, arguments, rate=1_000, seconds=60.0, least=0.95)
