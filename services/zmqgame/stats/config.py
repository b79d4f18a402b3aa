"""The configuration of stats."""

from __future__ import annotations

from dataclasses import dataclass

from zmqgame_bus.schema import key, table


@table("stats")
@dataclass(frozen=True)
class StatsConfig:
    """Where events come in and where they are kept."""

    listen: str = key(
        "tcp://127.0.0.1:7601", unit="endpoint", help="Where other processes publish their events."
    )
    clickhouse: str = key(
        "chdb",
        unit="warehouse",
        help='"chdb": as a library, data below --state-dir; else http(s)://USER:PASSWORD@HOST:PORT.',
    )
    flush_ms: int = key(
        500,
        unit="ms",
        low=10,
        high=60_000,
        reason="ClickHouse wants few and big batches, people want to see what happened",
        help="How long events are gathered for one batch.",
    )
    batch_rows: int = key(
        50_000,
        unit="events",
        low=1,
        high=1_000_000,
        reason="one batch is one block of ClickHouse, which has at most 1,048,449 rows",
        help="A batch is inserted at once when it has this many events.",
    )
    buffer_bytes: int = key(
        67_108_864,
        unit="bytes",
        low=1_048_576,
        high=17_179_869_184,
        reason="at least a few frames; beyond memory nothing is gained, the spools hold the rest",
        help="How much may wait in memory for ClickHouse; the rest waits in the spools.",
    )
    sql_rows: int = key(
        100_000,
        unit="rows",
        low=1,
        high=10_000_000,
        reason="the result travels in one message of at most 1 MiB",
        help="Rows that the answer to one SQL query may have.",
    )
    sql_seconds: float = key(
        20.0,
        unit="s",
        low=0.1,
        high=3600.0,
        reason="queries run one after another",
        help="How long one SQL query may run.",
    )
