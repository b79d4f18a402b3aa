"""The packet decoder: 64 B packets beside a struct loop that reads the same fields, 1 KB beside a copy."""

from __future__ import annotations

from zmqgame.cli.bench_edge_more import CONNECTION, alternate, decoded, stream, struct_loop
from zmqgame_native import PacketBatch

from tests.bench.report import Row


def check() -> None:
    """Both decode the same; a benchmark of wrong answers would be worth nothing."""
    data, count = stream(64)
    batch, consumed = PacketBatch.decode(data, CONNECTION)
    ours = tuple(
        list(column) for column in (batch.connection, batch.kind, batch.sequence, batch.offset, batch.length)
    )
    if ours != struct_loop(data) or consumed != len(data) or len(batch) != count:
        raise AssertionError("the decoder and the struct loop differ")


def measure(*, quick: bool) -> list[Row]:
    """Two rows."""
    check()
    rounds, slice_s = (5, 0.1) if quick else (11, 0.3)
    count, ours_s, peer_s = decoded(64, rounds, slice_s)
    small: Row = {
        "name": "decode 64 B packets, all columns",
        "ours": round(count / ours_s),
        "peer": round(count / peer_s),
        "peer_name": "struct loop",
        "unit": "packets/s",
        "ratio": round(peer_s / ours_s, 2),
        "goal": 50,
        "better": "higher",
    }
    data, _ = stream(1024)
    ours_s, peer_s = alternate(
        lambda: PacketBatch.decode(data, CONNECTION), lambda: bytearray(data), rounds, slice_s
    )
    large: Row = {
        "name": "decode 1 KB packets",
        "ours": round(len(data) / ours_s / 1e6),
        "peer": round(len(data) / peer_s / 1e6),
        "peer_name": "copy",
        "unit": "MB/s",
        "ratio": round(peer_s / ours_s, 2),
        "goal": 0.5,
        "better": "higher",
    }
    return [small, large]
