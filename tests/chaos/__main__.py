"""`python -m tests.chaos --cycles 1000 --seed 1`: see the package."""

import argparse
import logging
import secrets
import sys
import tempfile
from pathlib import Path

from tests.chaos.faults import FAULTS
from tests.chaos.run import HUB, REST_S, Run, State, execute


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--cycles", type=int, default=100, help="in all, those before a resume included")
    parser.add_argument("--seed", default="", help="the same seed has the same faults (default: a new one)")
    parser.add_argument("--store", choices=("sqlite", "ferretdb"), default="sqlite")
    parser.add_argument("--folder", type=Path, help="where the run's state and logs are (default: a new one)")
    parser.add_argument("--resume", type=Path, metavar="FOLDER", help="go on with the run of this folder")
    parser.add_argument("--hub", default="", metavar="PROGRAM", help="another hub, as those of tests/faults")
    parser.add_argument("--only", nargs="*", default=[], choices=sorted(FAULTS), help="these faults alone")
    parser.add_argument(
        "--rest-s", type=float, default=REST_S, help="without rest for so long it waits for ever"
    )
    options = parser.parse_args()
    if options.resume is not None:
        folder, state = options.resume, State.load(options.resume)
    else:
        folder = options.folder or Path(tempfile.mkdtemp(prefix="zmqgame-chaos-"))
        folder.mkdir(parents=True, exist_ok=True)
        state = State(options.seed or str(secrets.randbelow(1_000_000)), options.store)
    hub = [options.hub] if options.hub else HUB
    logging.getLogger("zmqgame_bus").setLevel(logging.ERROR)  # the controller's own node loses its link often
    print(f"seed {state.seed}, {state.store}, from cycle {state.cycles + 1}, state in {folder}", flush=True)
    run = Run(folder.resolve(), state, hub_command=hub, only=options.only, rest_s=options.rest_s)
    return execute(run, options.cycles)


if __name__ == "__main__":
    sys.exit(main())
