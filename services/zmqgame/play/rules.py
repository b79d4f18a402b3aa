"""The classes users write: what a match is (`Match`) and what its players say (`Action`, `Input`, `Event`).

Types are the protocol: a subclass of `Action` or `Event` is a JSON object with a "type", a subclass of
`Input` a fixed row of little-endian numbers. `step` is pure: time and chance come from the match.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import random
import re
import struct
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal, Self, dataclass_transform

import orjson

from zmqgame import limits

Json = Any  # what JSON can hold
Missing = Literal["repeat", "neutral"]
SCALARS: Mapping[type, tuple[type, ...]] = {
    bool: (bool,),
    int: (int,),
    float: (int, float),
    str: (str,),
    list: (list,),
    dict: (dict,),
}
INPUT_CODES: Mapping[type, str] = {float: "f", int: "i", bool: "?"}


class RulesError(TypeError):
    """A game's classes can't be used as they are written: said when the game is loaded."""


class Refused(ValueError):
    """An action that can't be done: kind for programs, text for people. The match goes on."""

    def __init__(self, kind: str, text: str = "") -> None:
        self.kind = kind
        self.text = text
        super().__init__(f"{kind}: {text}" if text else kind)


def wire_name(cls: type) -> str:
    """How a class is called in JSON: ChangeGear -> change_gear."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()


def _field_types(cls: type) -> dict[str, type]:
    """Names and types of the fields; `list[int]` counts as list."""
    hints = typing.get_type_hints(cls)
    found = {}
    for item in fields(cls):
        hint = hints[item.name]
        plain = typing.get_origin(hint) or hint
        if plain not in SCALARS:
            raise RulesError(
                f"{cls.__name__}.{item.name}: {hint} is not one of bool, int, float, str, list, dict"
            )
        found[item.name] = plain
    return found


@dataclass_transform(frozen_default=True)
class Action:
    """What a player decides: reliable and in order. Subclass it with typed fields."""

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True)(cls)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The action in an object from a client; what does not fit is `Refused`."""
        types = _field_types(cls)
        unknown = set(values) - set(types) - {"type", "match"}
        if unknown:
            raise Refused("malformed", f"{wire_name(cls)} has no field {min(unknown)!r}")
        for name in set(values) & set(types):
            value = values[name]
            if not isinstance(value, SCALARS[types[name]]) or (
                isinstance(value, bool) and types[name] is not bool
            ):
                raise Refused("malformed", f"{wire_name(cls)}.{name} is not a {types[name].__name__}")
        try:
            return cls(**{name: values[name] for name in types if name in values})
        except TypeError as error:
            raise Refused("malformed", f"{wire_name(cls)}: a field is missing") from error

    def to_json(self) -> dict[str, Any]:
        """The object a client sends."""
        values = {name: getattr(self, name) for name in _field_types(type(self))}
        return {"type": wire_name(type(self)), **values}


@dataclass_transform(frozen_default=True)
class Event:
    """What the match tells its players: reliable and in order. Subclass it with typed fields."""

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True)(cls)

    def to_json(self) -> dict[str, Any]:
        """The object a client gets."""
        return {"type": wire_name(type(self)), **asdict(self)}  # type: ignore[call-overload]


@dataclass_transform(frozen_default=True)
class Input:
    """What a player holds at one frame: fields of bool, int (32 bits) and float (32 bits)."""

    _layout: ClassVar[struct.Struct | None] = None
    _neutral: ClassVar[Any] = None

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True)(cls)
        cls._layout = None
        cls._neutral = None

    @classmethod
    def layout(cls) -> struct.Struct:
        """The fixed bytes of this input, made once from the fields' types."""
        if cls._layout is None:
            codes = []
            for name, kind in _field_types(cls).items():
                if kind not in INPUT_CODES:
                    raise RulesError(f"{cls.__name__}.{name}: an input holds bool, int and float only")
                codes.append(INPUT_CODES[kind])
            layout = struct.Struct("<" + "".join(codes))
            if not 0 < layout.size <= limits.MAX_INPUT_BYTES:
                raise RulesError(
                    f"{cls.__name__} takes {layout.size} bytes; 1 to {limits.MAX_INPUT_BYTES} are possible"
                )
            cls._layout = layout
        return cls._layout

    def pack(self) -> bytes:
        """The bytes a client sends."""
        return self.layout().pack(*(getattr(self, item.name) for item in fields(self)))  # type: ignore[arg-type]

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """The input in `data`; a number that is none (NaN, infinite) becomes 0."""
        values = cls.layout().unpack(data)
        return cls(
            *(0.0 if isinstance(value, float) and not math.isfinite(value) else value for value in values)
        )

    @classmethod
    def neutral(cls) -> Self:
        """What counts for a player who has said nothing: defaults, else zeros."""
        if cls._neutral is None:
            zeros = cls.unpack(bytes(cls.layout().size))
            optional = {item.name for item in fields(cls) if item.default is not MISSING}  # type: ignore[arg-type]
            cls._neutral = cls(**{n: getattr(zeros, n) for n in _field_types(cls) if n not in optional})
        return typing.cast(Self, cls._neutral)


@dataclass(frozen=True)
class Phases:
    """Time-outs of a match's states in ms; a match's class sets them, the configuration may override."""

    waiting_ms: int = 20_000
    ready_ms: int = 20_000
    cutscene_ms: int = 2_000
    countdown_ms: int = 3_000
    running_ms: int = 600_000
    disconnect_ms: int = 15_000
    linger_ms: int = 2_000

    def __post_init__(self) -> None:
        for item in fields(self):
            if not 0 <= getattr(self, item.name) <= limits.MAX_MATCH_MS:
                raise RulesError(f"phases: {item.name} is not within 0 and {limits.MAX_MATCH_MS}")


@dataclass
class Result:
    """How a match ended for one player."""

    player: str
    outcome: Literal["finished", "did_not_finish"]
    place: int | None = None
    reason: str = ""
    values: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As it stands in events and in the manager's log."""
        return asdict(self)


Handler = Callable[[Any, str, Any], None]


class Match:
    """The rules of one match: write `start`, `step`, `snapshot`, and `on_NAME` for each action."""

    tick_hz: ClassVar[int] = 50
    players_min: ClassVar[int] = 2
    players_max: ClassVar[int] = 8
    phases: ClassVar[Phases] = Phases()
    missing: ClassVar[Missing] = "repeat"
    snapshot_every: ClassVar[int] = 5
    input_type: ClassVar[type[Input] | None] = None
    handlers: ClassVar[Mapping[str, tuple[type[Action], Handler]]] = {}

    def __init_subclass__(
        cls,
        *,
        tick_hz: int = 50,
        players: tuple[int, int] = (2, 8),
        phases: Phases | None = None,
        missing: Missing = "repeat",
        snapshot_every: int = 5,
        inputs: type[Input] | None = None,
    ) -> None:
        if not 1 <= tick_hz <= 1_000 or not 1 <= players[0] <= players[1] <= limits.MAX_MATCH_PLAYERS:
            raise RulesError(f"{cls.__name__}: tick_hz is 1 to 1000, players 1 to {limits.MAX_MATCH_PLAYERS}")
        cls.tick_hz, cls.missing, cls.snapshot_every, cls.input_type = (
            tick_hz,
            missing,
            snapshot_every,
            inputs,
        )
        cls.players_min, cls.players_max = players
        cls.phases = phases or Phases()
        if inputs is not None:
            inputs.layout()
        cls.handlers = _find_handlers(cls)

    def __init__(self, match_id: str, players: tuple[str, ...], seed: int, config: Mapping[str, Any]) -> None:
        self.id = match_id
        self.players = players
        self.config = config
        self.random = random.Random(seed)  # the only source of chance, so that a replay gives the same
        self.frame = 0
        self.over = False
        self.results: dict[str, Result] = {}
        self.outbox: list[tuple[str | None, dict[str, Any]]] = []

    def start(self) -> None:
        """Called once, when the match is made."""

    def step(self, frame: int, inputs: Mapping[str, Any]) -> None:
        """One tick of the running match; missing inputs are filled already."""
        raise TypeError(f"{type(self).__name__} has no step(frame, inputs): a match needs one")

    def snapshot(self) -> Json:
        """The state for clients, as something JSON can hold."""
        return {}

    def left(self, player: str) -> None:
        """The player did not finish: gone too long, or never ready."""

    def state_hash(self) -> str:
        """A fingerprint of the state: the same at each frame of a replay."""
        return hashlib.blake2b(orjson.dumps(self.snapshot()), digest_size=8).hexdigest()

    @typing.final
    def emit(self, event: Event, *, to: str | None = None) -> None:
        """Send an event to one player or to all."""
        self.outbox.append((to, event.to_json()))

    @typing.final
    def finish_player(self, player: str, **values: Json) -> None:
        """The player has finished; places are given in the order of these calls."""
        if player in self.players and player not in self.results:
            place = 1 + sum(result.outcome == "finished" for result in self.results.values())
            self.results[player] = Result(player, "finished", place, values=values)
            self.over = self.over or len(self.results) == len(self.players)

    @typing.final
    def drop_player(self, player: str, reason: str, **values: Json) -> None:
        """The player did not finish."""
        if player in self.players and player not in self.results:
            self.results[player] = Result(player, "did_not_finish", None, reason, values)
            self.over = self.over or len(self.results) == len(self.players)

    @typing.final
    def finish(self) -> None:
        """The match is over; players without a result did not finish."""
        self.over = True


def _find_handlers(cls: type[Match]) -> dict[str, tuple[type[Action], Handler]]:
    """The methods `on_NAME(self, player, action: SomeAction)` by the action's wire name."""
    found: dict[str, tuple[type[Action], Handler]] = {}
    for name, method in inspect.getmembers(cls, inspect.isfunction):
        if not name.startswith("on_"):
            continue
        parameters = list(inspect.signature(method).parameters)
        if len(parameters) != 3:
            raise RulesError(f"{cls.__name__}.{name} takes (self, player, action)")
        action = typing.get_type_hints(method).get(parameters[2])
        if not (isinstance(action, type) and issubclass(action, Action)):
            raise RulesError(f"{cls.__name__}.{name}: annotate its action with a subclass of Action")
        _field_types(action)
        found[wire_name(action)] = (action, method)
    return found
