"""The packet decoder: 64 B packets beside a struct loop that reads the same fields, 1 KB beside a copy."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from statistics import median

from zmqgame_native import PacketBatch

from tests.bench.report import Row

HEAD = struct.Struct("<IBBHQ")
STREAM_BYTES = 1 << 20
CONNECTION = 7


def stream(packet_bytes: int) -> tuple[bytes, int]:
    """Packets of `packet_bytes` each without their prefix, as a whole buffer, and how many."""
    count = STREAM_BYTES // (packet_bytes + 4)
    payload = b"x" * (packet_bytes - 12)
    return b"".join(HEAD.pack(packet_bytes, 1, 0, 0, number) + payload for number in range(count)), count


def struct_loop(data: bytes) -> tuple[list[int], list[int], list[int], list[int], list[int]]:
    """What a Python programmer writes: the same columns, checks included."""
    connections: list[int] = []
    kinds: list[int] = []
    sequences: list[int] = []
    offsets: list[int] = []
    lengths: list[int] = []
    at, end, unpack = 0, len(data), HEAD.unpack_from
    while at + 16 <= end:
        length, kind, flags, reserved, sequence = unpack(data, at)
        if length < 12 or length > 65_536 or flags or reserved or kind >= 0xF0:
            raise ValueError("no packet")
        if at + 4 + length > end:
            break
        connections.append(CONNECTION)
        kinds.append(kind)
        sequences.append(sequence)
        offsets.append(at + 16)
        lengths.append(length - 12)
        at += 4 + length
    return connections, kinds, sequences, offsets, lengths


def seconds_for(work: Callable[[], object], at_least_s: float) -> float:
    """Seconds of one call, over as many calls as fill the time."""
    calls, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < at_least_s:
        work()
        calls += 1
    return passed / calls


def alternate(ours: Callable[[], object], peer: Callable[[], object], *, quick: bool) -> tuple[float, float]:
    """Medians of both, measured in turns."""
    rounds, slice_s = (5, 0.1) if quick else (11, 0.3)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        times[0].append(seconds_for(ours, slice_s))
        times[1].append(seconds_for(peer, slice_s))
    return median(times[0]), median(times[1])


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
    data, count = stream(64)
    ours_s, peer_s = alternate(
        lambda: PacketBatch.decode(data, CONNECTION), lambda: struct_loop(data), quick=quick
    )
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
        lambda: PacketBatch.decode(data, CONNECTION), lambda: bytearray(data), quick=quick
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
