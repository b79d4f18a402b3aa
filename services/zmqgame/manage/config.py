"""The table [manager]. Holds tables only: every process imports it."""

from __future__ import annotations

from dataclasses import dataclass

from zmqgame_bus.schema import key, table

PLAYERS = "as many as one match may have"


@table("manager")
@dataclass(frozen=True)
class ManagerConfig:
    """The manager: how matches are made, and when a game server counts as gone."""

    match_size: int = key(4, unit="players", low=1, high=64, reason=PLAYERS, help="Players in a match.")
    match_fewest: int = key(
        2, unit="players", low=1, high=64, reason=PLAYERS, help="Fewest players when patience is over."
    )
    patience_ms: int = key(
        10_000,
        unit="ms",
        low=0,
        high=3_600_000,
        reason="nobody waits longer than an hour",
        help="How long the first in the queue waits for a full match.",
    )
    token_s: int = key(
        300,
        unit="s",
        low=5,
        high=86_400,
        reason="a stolen token must grow old",
        help="How long a token may be used to log in.",
    )
    stale_ms: int = key(
        5_000,
        unit="ms",
        low=1_500,
        high=600_000,
        reason="load comes every second, and one report may be lost",
        help="A server that reports no load for so long gets no one.",
    )
    down_ms: int = key(
        3_000,
        unit="ms",
        low=0,
        high=600_000,
        reason="players of its matches wait for so long",
        help="How long a server that left the bus may take to come back; then its matches abort.",
    )
    match_config: str = key(
        "{}",
        unit="JSON object",
        help="What each match's rules get as their config; the drag race knows distance_m.",
    )
    match_limit_s: int = key(
        4_000,
        unit="s",
        low=10,
        high=86_400,
        reason="longer than a match may run",
        help="A match without a result after so long is aborted.",
    )
