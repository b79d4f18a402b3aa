"""One direction of dependency:
zmqgame_native <- zmqgame_bus <- zmqgame, and tables that import nothing heavy.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("zmqgame_native", "zmqgame_bus", "zmqgame")
MAY_IMPORT = {"zmqgame_bus": {"zmqgame_native", "zmqgame_bus"}, "zmqgame": set(OURS)}
FOLDERS = {"zmqgame_bus": ROOT / "bus" / "zmqgame_bus", "zmqgame": ROOT / "services" / "zmqgame"}
HEAVY = ("chdb", "pyarrow", "clickhouse_connect", "rich", "websockets", "zmq", "zmqgame_native")


def imported(source: str) -> set[str]:
    """The top packages that a module imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").partition(".")[0])
    return found


def wrong(package: str, source: str) -> set[str]:
    return (imported(source) & set(OURS)) - MAY_IMPORT[package]


@pytest.mark.parametrize("package", FOLDERS)
def test_a_package_imports_only_what_is_below_it(package):
    for path in sorted(FOLDERS[package].rglob("*.py")):
        assert not wrong(package, path.read_text()), f"{path} imports from above"


def test_the_walk_sees_every_form_of_import():
    assert wrong("zmqgame_bus", "import zmqgame.cli")
    assert wrong("zmqgame_bus", "def f():\n    from zmqgame import play")
    assert not wrong("zmqgame_bus", "import zmqgame_native, zmqgame_bus.config\nfrom . import keys")


def test_the_native_module_depends_on_nothing_of_ours():
    for path in (ROOT / "rust" / "python").rglob("*.pyi"):
        assert not imported(path.read_text()) & {"zmqgame", "zmqgame_bus"}


@pytest.mark.parametrize("module", ["zmqgame.tables", "zmqgame_bus.tables", "zmqgame.cli"])
def test_what_every_process_imports_is_light(module):
    """Every process imports every table, and each command the top of the command line."""
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    heavy = () if module.endswith("tables") else ("zmq",)  # key files need Z85
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert set(ast.literal_eval(out)) <= set(heavy)


def test_distributions_name_only_what_is_below_them():
    for folder, allowed in (("bus", {"zmqgame-native"}), ("services", {"zmqgame-bus", "zmqgame-native"})):
        text = (ROOT / folder / "pyproject.toml").read_text()
        listed = {
            line.strip(' ",').split("==")[0] for line in text.replace("[", "\n").splitlines() if "==" in line
        }
        assert {name for name in listed if name.startswith("zmqgame")} <= allowed | {""}
