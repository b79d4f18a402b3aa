"""What the distributions say of themselves: the licence is in the wheel, and what is imported is named."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECTS = ("bus", "services")
BROUGHT_BY_NAME = {"chdb-core-lite"}
"""Imported by a library of ours, not by us: clickhouse-connect loads chDB when it is asked to."""


def declared(project):
    table = tomllib.loads((ROOT / project / "pyproject.toml").read_text())["project"]
    optional = table.get("optional-dependencies", {}).values()
    every = [*table["dependencies"], *(each for extra in optional for each in extra)]
    return table["name"], {re.match(r"[\w-]+", each)[0] for each in every}


def imported(project):
    """The distributions that hold the modules which this one imports."""
    modules = set()
    for file in (ROOT / project).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules.add(node.module.partition(".")[0])
    known = packages_distributions()
    names = {
        "jwt": "pyjwt",
        "zmqgame": "zmqgame",
        "zmqgame_bus": "zmqgame-bus",
        "zmqgame_native": "zmqgame-native",
    }
    return {
        names.get(module) or re.sub("[_.]", "-", known[module][0]).lower()
        for module in modules - sys.stdlib_module_names
    }


@pytest.mark.parametrize("project", PROJECTS)
def test_what_is_imported_is_named_and_what_is_named_is_used(project):
    name, names = declared(project)
    assert imported(project) - {name} == names - BROUGHT_BY_NAME


@pytest.mark.parametrize("project", PROJECTS)
def test_a_wheel_holds_the_licence(project, tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT / project, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        [found] = [file for file in archive.namelist() if file.endswith(".dist-info/licenses/LICENSE")]
        assert archive.read(found) == (ROOT / "LICENSE").read_bytes()


def test_the_native_wheel_is_told_to_hold_it():
    table = tomllib.loads((ROOT / "rust/python/pyproject.toml").read_text())["project"]
    assert table["license-files"] == ["LICENSE"]
    assert (ROOT / "rust/python/LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
