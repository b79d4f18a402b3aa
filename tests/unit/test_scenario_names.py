"""Each scenario that bus/BUS.md names is a test of that name, in the simulation or on real processes."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _named() -> list[str]:
    text = (ROOT / "bus" / "BUS.md").read_text(encoding="utf-8")
    section = text.split("## 12. ", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"`([a-z][a-z0-9]*(?:_[a-z0-9]+){2,})`", section)


def _tests() -> set[str]:
    rust = (ROOT / "rust").rglob("*.rs")
    python = (ROOT / "tests").rglob("test_*.py")
    found: set[str] = set()
    for path in rust:
        found.update(re.findall(r"#\[test\]\s*fn (\w+)\(", path.read_text(encoding="utf-8")))
    for path in python:
        found.update(re.findall(r"def test_(\w+)\(", path.read_text(encoding="utf-8")))
    return found


def test_each_named_scenario_is_a_test() -> None:
    named = _named()
    assert len(named) > 40, "section 12 of bus/BUS.md lists the scenarios"
    missing = sorted(set(named) - _tests())
    assert missing == []
