"""`python -m tests.bench [NAME ...] [--quick]`: each benchmark is a module here with `measure(*, quick)`.

`--only ROW` measures some rows of `bus` or `edge` alone: `measure(*, quick, only)` there.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util

from tests.bench.report import Row, show

NAMES = ("bus", "edge", "decoder", "tick", "stats")


def main() -> None:
    """Run the named benchmarks, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="at most 45 s each; bus and edge some minutes")
    parser.add_argument(
        "--only",
        action="append",
        metavar="ROW",
        help="of bus or edge, rows whose name begins so: stored, rtt, curve; WebSocket, TCP ...",
    )
    options = parser.parse_args()
    if options.only and options.names not in (["bus"], ["edge"]):
        parser.error("--only is for bus or edge: write `bus --only stored`")
    unknown = sorted(set(options.names) - set(NAMES))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}: there are {', '.join(NAMES)}")
    rows: list[Row] = []
    for name in options.names or NAMES:
        if importlib.util.find_spec(f"tests.bench.{name}") is not None:
            chosen = {"only": options.only} if options.only else {}
            rows += importlib.import_module(f"tests.bench.{name}").measure(quick=options.quick, **chosen)
    print(show(rows))


if __name__ == "__main__":
    main()
