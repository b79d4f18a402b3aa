"""Rows/s into chDB: the whole way of stats from a frame to a committed batch, beside bare insert_arrow.

Ours: decode, track, plan, journal (synced), JSON to Arrow, insert with token and fsync, progress (synced).
The peer inserts the same rows, already in Arrow, in the same batches, into a table without deduplication and
fsync.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import orjson
import pyarrow as pa
from zmqgame.stats.clickhouse import Warehouse, insert_tables
from zmqgame.stats.collector import Collector
from zmqgame.stats.journal import Journal
from zmqgame.stats.rows import to_tables
from zmqgame_bus.limits import EVENT_BATCH_BYTES
from zmqgame_bus.records import RECORDS, decode_frame, encode_record, frame_head

BATCH = 50_000
PEER_TABLE = """
CREATE TABLE bare
(
    source LowCardinality(String), epoch UInt64, seq UInt64, time DateTime64(6, 'UTC'), match String,
    player String, car LowCardinality(String), place UInt16, time_ms Float64, trap_kmh Float64, extra String
)
ENGINE = MergeTree ORDER BY (source, epoch, seq)
"""


def frames(epoch: int, events: int) -> Iterator[bytes]:
    """What a game server would have sent."""
    head, out = frame_head(RECORDS, "game-1", epoch), bytearray()
    for number in range(1, events + 1):
        fields = {
            "match": f"m-{number // 4}",
            "player": f"player-{number % 640}",
            "car": "coupe",
            "place": number % 4 + 1,
            "time_ms": 13_000 + number % 700 / 10,
            "trap_kmh": 180.5,
        }
        out += encode_record(number, orjson.dumps(["finishes", 1_700_000_000_000_000 + number, fields]))
        if len(out) > EVENT_BATCH_BYTES:
            yield head + bytes(out)
            out.clear()
    yield head + bytes(out)


def ours(warehouse: Warehouse, journal: Journal, sent: list[bytes]) -> None:
    """From frames to a committed batch, as the service does it."""
    collector = Collector(buffer_bytes=1 << 30)
    for data in sent:
        collector.receive(decode_frame(data))
    while (plan := collector.plan(BATCH)) is not None:
        journal.write_plan(plan)
        insert_tables(warehouse, to_tables(plan.frames, warehouse.schemas), plan.digest)
        collector.committed(plan)
        journal.write_progress(warehouse.installation, plan.digest, collector.progress())
        collector.released(plan)


def peer(warehouse: Warehouse, batches: list[pa.Table]) -> None:
    """The same rows, bare."""
    for batch in batches:
        warehouse._writer.insert_arrow("bare", batch)


def measure(*, quick: bool) -> list[dict[str, Any]]:
    """One row: rows per second of both, alternating, medians."""
    events, rounds = (100_000, 5) if quick else (250_000, 11)
    mine, other = [], []
    with tempfile.TemporaryDirectory(prefix="zmqgame-bench-") as folder:
        warehouse = Warehouse("chdb", Path(folder))
        warehouse._execute(PEER_TABLE)
        journal = Journal(Path(folder) / "journal")
        for epoch in range(rounds):
            sent = list(frames(epoch, events))
            whole = to_tables([decode_frame(data) for data in sent], warehouse.schemas)["finishes"]
            batches = [whole.slice(start, BATCH) for start in range(0, events, BATCH)]
            mine.append(events / seconds(ours, warehouse, journal, sent))
            other.append(events / seconds(peer, warehouse, batches))
        count = warehouse.rows("SELECT count(), uniqExact(epoch, seq) FROM finishes")[0]
        assert tuple(count) == (events * rounds, events * rounds), f"not each row once: {count}"
        warehouse.close()
    here, there = median(mine), median(other)
    return [
        {
            "name": "stats rows into chDB",
            "ours": round(here),
            "peer": round(there),
            "peer_name": "bare insert_arrow",
            "unit": "rows/s",
            "ratio": round(here / there, 3),
            "goal": GOAL,
            "better": "higher",
        }
    ]


GOAL = 0.1
"""Of bare insert_arrow, which neither parses, nor journals, nor syncs. It is still some 100,000 rows/s."""


def seconds(work: Any, *arguments: Any) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


if __name__ == "__main__":
    print(orjson.dumps(measure(quick=True)).decode())
