"""Configuration tables as typed dataclasses: what a key is, and what may be put in it.

A table is a frozen dataclass; each field is made by ``key`` and so has a default, a unit, a sentence and
limits with their reason::

    @table("hub")
    @dataclass(frozen=True)
    class HubConfig:
        "Where nodes connect."
        heartbeat_ms: int = key(1000, unit="ms", low=50, high=60_000, reason="...", help="How often ...")

Types: bool, int, float, str, tuple[str, ...]. A text of the environment or of a flag is read by the field's
type; a list is separated by commas.
"""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from zmqgame_bus.limits import CONFIG_LIST_ITEMS, CONFIG_TEXT_CHARS

__all__ = ["Key", "close_to", "key", "register_all", "table", "tables"]

T = TypeVar("T")
_META = "zmqgame"
_GROUP = "zmqgame.config"


_HOST = r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(?:%\w+)?\])"
_PORT = r":(?P<port>\d+)"
_PATH = r"[^\0\n]"
_FORMS: Final[Mapping[str, tuple[re.Pattern[str], str]]] = {
    "endpoint": (re.compile(rf"tcp://(?:{_HOST}|\*){_PORT}|ipc://{_PATH}+"), "tcp://HOST:PORT or ipc://PATH"),
    "host:port": (re.compile(rf"{_HOST}{_PORT}"), "HOST:PORT"),
    "host:port or empty": (re.compile(rf"(?:{_HOST}{_PORT})?"), "HOST:PORT"),
    "host:port or off": (re.compile(rf"off|{_HOST}{_PORT}"), "HOST:PORT or off"),
    "host": (re.compile(rf"(?:{_HOST})?"), "a host without a port"),
    "module:class": (re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"), "module:class"),
    "mailbox": (
        re.compile(rf"sqlite:{_PATH}+|mongodb(?:\+srv)?://[^\s\0-\x1f\x7f]+"),
        "sqlite:PATH or mongodb://HOST/DATABASE",
    ),
    "warehouse": (
        re.compile(rf"chdb|https?://(?:[^/\s]*@)?{_HOST}(?:{_PORT})?(?:/\S*)?"),
        "chdb, http://HOST:PORT or https://HOST:PORT",
    ),
    "file or empty": (re.compile(rf"{_PATH}*"), "the name of a file"),
    "file": (re.compile(rf"{_PATH}+"), "the name of a file"),
    "start of a name": (re.compile(r"[^\s\0-\x1f\x7f]{0,100}"), "at most 100 characters without a blank"),
    "folder": (re.compile(rf"{_PATH}*"), "the name of a folder"),
}
"""Units that say what a text looks like: a value that can't be one is told where it is written, and not by
the service that tries it."""


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of a table, as documentation and checks need it."""

    table: str
    name: str
    kind: str
    default: Any
    unit: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    help: str
    reason: str

    @property
    def path(self) -> str:
        """``hub.listen``."""
        return f"{self.table}.{self.name}"

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"ZMQGAME_{self.table}_{self.name}".upper()

    def parse(self, text: str) -> Any:
        """The value that ``text`` of an environment variable or flag stands for; ValueError says why not."""
        if self.kind == "bool":
            return _bool(text)
        if self.kind in ("int", "float"):
            return _number(text, self.kind)
        if self.kind == "list":
            return tuple(part.strip() for part in text.split(",") if part.strip())
        return text

    def check(self, value: Any) -> Any:
        """The value as the dataclass holds it;
        ValueError says what is wrong, which limit, and why it is there.
        """
        value = self._typed(value)
        if self.low is not None and value < self.low:
            raise ValueError(f"is under the limit of {_plain(self.low)}{self._because()}")
        if self.high is not None and value > self.high:
            raise ValueError(f"is over the limit of {_plain(self.high)}{self._because()}")
        if self.kind == "list" and len(value) > CONFIG_LIST_ITEMS:
            raise ValueError(f"has {len(value)} items: the limit is {CONFIG_LIST_ITEMS}")
        if self.kind in ("str", "list"):
            for text in (value,) if self.kind == "str" else value:
                _check_form(text, self.unit)
        if self.choices and value not in self.choices:
            raise ValueError(f"is not one of {', '.join(self.choices)}{suggestion(str(value), self.choices)}")
        return value

    def _because(self) -> str:
        return f" ({self.reason})" if self.reason else ""

    def _typed(self, value: Any) -> Any:
        right = {
            "bool": isinstance(value, bool),
            "int": isinstance(value, int) and not isinstance(value, bool),
            "float": isinstance(value, int | float) and not isinstance(value, bool),
            "str": isinstance(value, str),
            "list": isinstance(value, list | tuple) and all(isinstance(item, str) for item in value),
        }[self.kind]
        if not right:
            raise ValueError(f"is {_article(value)}, not {_NAMES[self.kind]}")
        return tuple(value) if self.kind == "list" else float(value) if self.kind == "float" else value


def _check_form(text: str, unit: str) -> None:
    if len(text) > CONFIG_TEXT_CHARS:
        raise ValueError(f"has {len(text)} characters: the limit is {CONFIG_TEXT_CHARS}")
    if unit == "JSON object":
        _check_json(text)
    if unit not in _FORMS:
        return
    pattern, form = _FORMS[unit]
    match = pattern.fullmatch(text)
    if match is None:
        raise ValueError(f"is not {form}")
    port = match.groupdict().get("port")
    if port and (len(port) > len("65535") or int(port) > 65_535):
        raise ValueError("is over the limit of 65535 for a port")


def _check_json(text: str) -> None:
    try:
        right = isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        right = False
    if not right:
        raise ValueError("is not a JSON object")


_NAMES = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "list": "a list of texts",
}
_REGISTRY: dict[str, type[Any]] = {}


def key(
    default: T,
    *,
    help: str,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    reason: str = "",
) -> T:
    """A field of a table. Limits need a reason: the error and the reference print it."""
    if (low is not None or high is not None) and not reason:
        raise TypeError("a limit needs a reason")
    meta = {"unit": unit, "low": low, "high": high, "choices": choices, "help": help, "reason": reason}
    made: T = dataclasses.field(default=default, metadata={_META: meta})
    return made


def table(name: str) -> Callable[[type[T]], type[T]]:
    """Register a frozen dataclass as the table ``[name]``; its docstring is the table's sentence."""

    def register(cls: type[T]) -> type[T]:
        if not dataclasses.is_dataclass(cls) or "_" in name:
            raise TypeError(
                "a table is a dataclass, and its name has no underscore (it separates environment names)"
            )
        other = _REGISTRY.get(name)
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(f"table [{name}] is already defined by {other.__module__}.{other.__qualname__}")
        keys_of(name, cls)  # a malformed table fails at import, not at the first load
        _REGISTRY[name] = cls
        return cls

    return register


def tables() -> Mapping[str, type[Any]]:
    """The registered tables by name."""
    return dict(sorted(_REGISTRY.items()))


def register_all() -> None:
    """Import the table modules of all installed distributions (entry points of the group ``zmqgame.config``).

    One file configures every process, so each must know the tables of the others to tell a typo from a table
    that is not its own. These modules hold tables only and import nothing heavy.
    """
    from importlib.metadata import entry_points

    for point in entry_points(group=_GROUP):
        point.load()


def keys_of(name: str, cls: type[Any]) -> list[Key]:
    """The keys of a table, in the order written."""
    hints = typing.get_type_hints(cls)
    return [_key(name, field, hints[field.name]) for field in dataclasses.fields(cls)]


def suggestion(word: str, known: Iterable[str]) -> str:
    """``; did you mean hub.listen?`` or nothing."""
    near = close_to(word, known)
    return f"; did you mean {near}?" if near else ""


def close_to(word: str, known: Iterable[str]) -> str:
    """The known word that is nearest, or an empty text."""
    import difflib

    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)), "")


def _key(table_name: str, field: dataclasses.Field[Any], hint: Any) -> Key:
    meta = field.metadata.get(_META)
    if meta is None:
        raise TypeError(f"{table_name}.{field.name} is not made by key()")
    kinds = {bool: "bool", int: "int", float: "float", str: "str", tuple[str, ...]: "list"}
    if hint not in kinds:
        raise TypeError(f"{table_name}.{field.name} has a type that no configuration text stands for: {hint}")
    made = Key(table=table_name, name=field.name, kind=kinds[hint], default=field.default, **meta)
    made.check(field.default)
    return made


def _bool(text: str) -> bool:
    word = text.lower()
    if word in ("true", "yes", "on", "1"):
        return True
    if word in ("false", "no", "off", "0"):
        return False
    raise ValueError("is not true or false")


def _number(text: str, kind: str) -> int | float:
    try:
        return int(text.replace("_", "")) if kind == "int" else float(text)
    except ValueError:
        raise ValueError(f"is not {_NAMES[kind]}") from None


def _article(value: Any) -> str:
    for types, name in (
        (bool, "true or false"),
        (int, "a whole number"),
        (float, "a number"),
        (str, "a text"),
    ):
        if isinstance(value, types):
            return name
    return (
        "a list"
        if isinstance(value, list)
        else "a table"
        if isinstance(value, dict)
        else type(value).__name__
    )


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)
