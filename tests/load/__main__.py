"""`python -m tests.load NAME [options]`: each load is a module here with `main(arguments) -> exit code`."""

import importlib
import pkgutil
import sys

import tests.load

NAMES = sorted(
    module.name for module in pkgutil.iter_modules(tests.load.__path__) if not module.name.startswith("_")
)


def main() -> int:
    """Run the named load."""
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        print(
            f"usage: python -m tests.load NAME [options]; NAME is one of {', '.join(NAMES)}", file=sys.stderr
        )
        return 2
    found = importlib.import_module(f"tests.load.{sys.argv[1]}")
    if not hasattr(found, "main"):
        print(f"{sys.argv[1]} is a part of others, not a load", file=sys.stderr)
        return 2
    return int(found.main(sys.argv[2:]))


if __name__ == "__main__":
    sys.exit(main())
