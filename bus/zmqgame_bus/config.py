"""One configuration for every process: a TOML file, environment variables over it, flags over both.

``load`` checks everything at once and reports every problem with file, line and key. A key that nobody knows
is an error with a suggestion, not a silent default. ``reference`` writes the documentation from the tables
themselves.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from zmqgame_bus.errors import ConfigError, Problem
from zmqgame_bus.limits import CONFIG_BYTES, CONFIG_LIST_ITEMS, CONFIG_TEXT_CHARS, PROBLEM_TEXT_CHARS
from zmqgame_bus.schema import Key, key, keys_of, register_all, suggestion, table, tables

__all__ = ["Config", "Key", "Setting", "example", "key", "load", "reference", "table"]

T = TypeVar("T")
Keys = dict[str, Key]
Settings = dict[str, "Setting"]
_PREFIX = "ZMQGAME_"
_NOT_KEYS = re.compile(r"ZMQGAME_(CONFIG|STATE_DIR|CLI_.*|TEST_.*|BENCH_.*)")
"""Variables with our prefix that set no key:
the file itself, and those of the command line and of the tests.
"""


@dataclass(frozen=True)
class Setting:
    """A value and where it came from."""

    key: Key
    value: Any
    source: str
    """``default``, ``game.toml:14``, ``environment ZMQGAME_HUB_LISTEN`` or ``--set hub.listen``."""


@dataclass(frozen=True)
class Config:
    """Every table, checked."""

    settings: Mapping[str, Setting]
    file: Path | None = None
    _tables: dict[str, Any] = field(default_factory=dict, repr=False)

    def table(self, cls: type[T]) -> T:
        """The table of this class: ``config.table(HubConfig).listen``."""
        for name, known in tables().items():
            if known is cls:
                if name not in self._tables:
                    values = {each.name: self.settings[each.path].value for each in keys_of(name, cls)}
                    self._tables[name] = cls(**values)
                made: T = self._tables[name]
                return made
        raise TypeError(f"{cls.__qualname__} is not a registered table")

    def source(self, path: str) -> str:
        """Where the value of ``hub.listen`` came from."""
        return self.settings[path].source


def load(
    path: Path | str | None = None,
    *,
    flags: Mapping[str, str] | None = None,
    environ: Mapping[str, str] = os.environ,
    others: bool = True,
) -> Config:
    """Read and check everything; raises ConfigError with every problem found.

    Without `others`, the tables of other processes are imported only if something names them: that takes a
    third of the time in which a hub starts.
    """
    if others or path or _names_others(flags or {}, environ):
        register_all()
    known = {each.path: each for name, cls in tables().items() for each in keys_of(name, cls)}
    problems: list[Problem] = []
    file = Path(path) if path else None
    found = {each.path: Setting(each, each.default, "default") for each in known.values()}
    if file is not None:
        _from_file(file, known, found, problems)
    _from_environment(environ, known, found, problems)
    _from_flags(flags or {}, known, found, problems)
    if problems:
        raise ConfigError(problems)
    return Config(found, file)


def _names_others(flags: Mapping[str, str], environ: Mapping[str, str]) -> bool:
    """Whether a flag is of a table that is not imported yet, or any variable is ours."""
    known = tables()
    foreign = any(name.partition(".")[0] not in known for name in flags)
    return foreign or any(name.startswith(_PREFIX) and not _NOT_KEYS.fullmatch(name) for name in environ)


def _from_file(file: Path, known: Keys, found: Settings, problems: list[Problem]) -> None:
    text = _read(file)
    try:
        import tomllib

        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        line = at.group(1) if at else str(text.count("\n") + 1)
        what = str(error).split(" (at ")[0]
        problems.append(Problem(f"{file}:{line}", "", f"not TOML: {what}"))
        return
    lines = _lines(text)
    names = sorted({each.table for each in known.values()})
    for table_name, values in document.items():
        where = f"{file}:{lines.get(table_name, 1)}"
        if table_name not in names:
            what = (
                f"unknown table [{table_name}]" if isinstance(values, dict) else f"unknown key {table_name}"
            )
            problems.append(Problem(where, table_name, what + suggestion(table_name, names)))
        elif not isinstance(values, dict):
            problems.append(Problem(where, table_name, f"{table_name} is a table: write [{table_name}]"))
        else:
            for name, value in values.items():
                path = f"{table_name}.{name}"
                _put(path, value, f"{file}:{lines.get(path, 1)}", known, found, problems)


def _read(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            data = stream.read(CONFIG_BYTES + 1)
        if len(data) > CONFIG_BYTES:
            raise ConfigError(
                [Problem(str(file), "", f"over the limit of {CONFIG_BYTES} bytes for a configuration")]
            )
        return data.decode()
    except OSError as error:
        raise ConfigError([Problem(str(file), "", f"can't be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(str(file), "", f"not UTF-8 at byte {error.start}")]) from error


def _from_environment(
    environ: Mapping[str, str], known: Keys, found: Settings, problems: list[Problem]
) -> None:
    variables = {each.variable: each for each in known.values()}
    for name in sorted(environ):
        if not name.startswith(_PREFIX) or _NOT_KEYS.fullmatch(name):
            continue
        where = f"environment {name}"
        if name not in variables:
            problems.append(Problem(where, name, f"sets no key{suggestion(name, variables)}"))
        else:
            _put_text(variables[name].path, environ[name], where, known, found, problems)


def _from_flags(flags: Mapping[str, str], known: Keys, found: Settings, problems: list[Problem]) -> None:
    for path, text in flags.items():
        where = f"--set {path}"
        if path in known:
            _put_text(path, text, where, known, found, problems)
        else:
            problems.append(Problem(where, path, f"unknown key {path}{suggestion(path, known)}"))


def _put_text(
    path: str,
    text: str,
    where: str,
    known: dict[str, Key],
    found: dict[str, Setting],
    problems: list[Problem],
) -> None:
    try:
        value = known[path].parse(text)
    except ValueError as error:
        problems.append(Problem(where, path, f"{path} = {_cut(text)} {error}"))
    else:
        _put(path, value, where, known, found, problems)


def _put(
    path: str,
    value: Any,
    where: str,
    known: dict[str, Key],
    found: dict[str, Setting],
    problems: list[Problem],
) -> None:
    each = known.get(path)
    if each is None:
        problems.append(Problem(where, path, f"unknown key {path}{suggestion(path, known)}"))
        return
    try:
        found[path] = Setting(each, each.check(value), where)
    except ValueError as error:
        problems.append(Problem(where, path, f"{path} = {_cut(_shown(value))} {error}"))


def _cut(text: str) -> str:
    """A value as an error shows it: without its middle if it is long."""
    if len(text) <= PROBLEM_TEXT_CHARS:
        return text
    half = PROBLEM_TEXT_CHARS // 2
    return f"{text[:half]} … {text[-half:]}"


_HEADER = re.compile(r"\s*\[\s*([A-Za-z0-9_-]+)\s*\]")
_ENTRY = re.compile(r"\s*([A-Za-z0-9_-]+(?:\s*\.\s*[A-Za-z0-9_-]+)?)\s*=")


def _lines(text: str) -> dict[str, int]:
    """The line of each table and key; tomllib tells none.

    Quoted keys and inline tables fall back to their table.
    """
    lines: dict[str, int] = {}
    current = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            current = header.group(1)
            lines.setdefault(current, number)
        elif entry := _ENTRY.match(line):
            name = re.sub(r"\s", "", entry.group(1))
            lines.setdefault(f"{current}.{name}" if current else name, number)
            lines.setdefault(current or name.split(".")[0], number)
    return lines


def reference() -> str:
    """The documentation of every table and key, as Markdown."""
    register_all()
    parts = ["# Configuration", "", _PREAMBLE]
    for name, cls in tables().items():
        parts += ["", f"## [{name}]", "", (cls.__doc__ or "").strip(), ""]
        for each in keys_of(name, cls):
            parts.append(
                f"- `{each.name}` ({_kind(each)}, default `{_shown(each.default)}`): "
                f"{each.help}{_limits(each)}"
            )
    return "\n".join(parts) + "\n"


def example() -> str:
    """A configuration file with every key at its default, commented out."""
    register_all()
    parts = ["# zmqgame: one file for every process. Every key stands here with its default, commented out."]
    for name, cls in tables().items():
        parts += ["", f"# {(cls.__doc__ or '').strip().splitlines()[0]}", f"[{name}]"]
        for each in keys_of(name, cls):
            unit = f" ({each.unit})" if each.unit else ""
            parts += [f"# {each.help}{unit}", f"# {each.name} = {_shown(each.default)}"]
    return "\n".join(parts) + "\n"


_PREAMBLE = """One TOML file for every process (`--config FILE` or `ZMQGAME_CONFIG`). An environment variable
`ZMQGAME_TABLE_KEY` goes over the file, a flag `--set TABLE.KEY=VALUE` over both. Lists in variables and
flags are separated by commas. """ + (
    f"A text has at most {CONFIG_TEXT_CHARS} characters, a list at most {CONFIG_LIST_ITEMS} items."
)


def _kind(each: Key) -> str:
    words = {
        "bool": "true or false",
        "int": "whole number",
        "float": "number",
        "str": "text",
        "list": "list of texts",
    }
    return words[each.kind] + (f", {each.unit}" if each.unit else "")


def _limits(each: Key) -> str:
    because = f" ({each.reason})" if each.reason else ""
    if each.choices:
        return f" One of {', '.join(f'`{choice}`' for choice in each.choices)}."
    if each.low is not None and each.high is not None:
        return f" From {each.low} to {each.high}{because}."
    if each.low is not None:
        return f" At least {each.low}{because}."
    return f" At most {each.high}{because}." if each.high is not None else ""


def _shown(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    return str(value)
