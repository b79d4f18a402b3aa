"""Documents name only what is there, and show only what runs (the running: integration/test_readme.py)."""

import os
import subprocess
import sys

import pytest

from tests.documents import ROOT, TOP, examples, paths, sessions

OUTSIDE = ("var/", "~/", "/", "dist/", "target/")
"""What is made by running, or is no file of the repository."""


def missing(document):
    base = (ROOT / document).parent
    for name in sorted(paths((ROOT / document).read_text())):
        if name.startswith(OUTSIDE) or "MODULE" in name or "SCENARIO" in name:
            continue
        if not any(
            folder.glob(name.rstrip("/")) for folder in (ROOT, base) if any(folder.glob(name.rstrip("/")))
        ):
            yield name


@pytest.mark.parametrize("document", TOP)
def test_every_path_that_a_document_names_exists(document):
    assert not list(missing(document))


def test_the_search_for_paths_finds_them():
    text = "see `rust/core/src/lib.rs`, [it](docs/demo.svg#top), `make test`, `a.b`, `Cargo.toml`, <https://x.y/z>"
    assert paths(text) == {"rust/core/src/lib.rs", "docs/demo.svg", "Cargo.toml"}


def test_the_map_of_rooms_names_folders_that_exist():
    text = (ROOT / "ARCHITECTURE.md").read_text().split("## Rooms")[1].split("```")[1]
    inside = ""
    for line in text.strip().splitlines():
        name = line.split()[0]
        if line[0] != " ":
            inside = name.rstrip("/")
            folder = ROOT / inside
        else:
            folder = ROOT / inside / name if inside != "rust/core" else ROOT / "rust/core/src" / name
        assert folder.is_dir(), name


def test_the_examples_are_the_files():
    shown = examples()
    assert set(shown) == {"examples/sprint.py", "examples/test_sprint.py", "examples/billing.py"}
    for name, text in shown.items():
        assert text == (ROOT / name).read_text(), f"{name} is not what the README shows"


def test_the_game_of_the_readme_passes_its_own_test():
    environ = {**os.environ, "PYTHONPATH": "examples"}
    words = [sys.executable, "-m", "pytest", "-q", "examples/test_sprint.py"]
    done = subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "[100%]" in done.stdout


def test_the_readme_shows_sessions():
    assert len(sessions()) >= 9
