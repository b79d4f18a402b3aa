"""The stream tools in Python, each against a naive model: ring buffer, frames, packets, columns, writes."""

import array
import itertools
import struct
from collections.abc import Callable

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zmqgame_native import FrameDecoder, FrameError, PacketBatch, RingBuffer, WriteBatch

HEAD = struct.Struct("<IBBHQ")


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """The data cut at some places."""
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


# RingBuffer

ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.binary(max_size=700)),
        st.tuples(st.sampled_from(["read", "peek", "skip", "tick"]), st.integers(-1, 900)),
    ),
    max_size=60,
)


@given(ACTS)
def test_a_ring_buffer_does_what_bytes_do(acts: list[tuple[str, bytes | int]]) -> None:
    ring, model, now_ms = RingBuffer(3_000), b"", 0
    for act, value in acts:
        if isinstance(value, bytes):
            if len(model) + len(value) <= 3_000:
                ring.write(bytearray(value))
                model += value
            else:
                with pytest.raises(BufferError, match="limit 3000"):
                    ring.write(value)
        elif act == "skip":
            if value < 0:
                continue
            if value > len(model):
                with pytest.raises(IndexError, match="skipped"):
                    ring.skip(value)
            else:
                ring.skip(value)
                model = model[value:]
        elif act == "tick":
            now_ms += max(value, 0)
            ring.tick(now_ms, 100)
        else:
            size = value if value >= 0 else len(model)
            assert (ring.read(value) if act == "read" else ring.peek(value)) == model[:size]
            model = model[size:] if act == "read" else model
        assert len(ring) == len(model)
        assert ring.peek() == model
        assert ring.capacity == 0 or ring.capacity.bit_count() == 1


def test_a_ring_buffer_gives_its_memory_back() -> None:
    ring = RingBuffer(1 << 20)
    assert (ring.capacity, ring.limit) == (0, 1 << 20)
    ring.write(bytes(100_000))
    ring.skip(100_000)
    for now_ms in (0, 50, 200):
        ring.tick(now_ms, 100)
    assert ring.capacity == 0
    for wrong in (0, (1 << 30) + 1):
        with pytest.raises(ValueError, match="must be 1 to"):
            RingBuffer(wrong)


# FrameDecoder

FRAMINGS: dict[str, tuple[Callable[[], FrameDecoder], Callable[[bytes], bytes]]] = {
    "gonet": (
        lambda: FrameDecoder.length_field(2, big_endian=True),
        lambda body: struct.pack(">H", len(body)) + body,
    ),
    "leaf": (lambda: FrameDecoder.length_field(4), lambda body: struct.pack("<I", len(body)) + body),
    "netty, header counted and kept": (
        lambda: FrameDecoder.length_field(3, offset=2, big_endian=True, adjustment=-5, strip=0),
        lambda body: body,
    ),
    "line": (FrameDecoder.line, lambda body: body + b"\r\n"),
    "delimiter": (lambda: FrameDecoder.delimiter(b"\0\0"), lambda body: body + b"\0\0"),
    "fixed": (lambda: FrameDecoder.fixed(7), lambda body: body),
}


def clean(name: str, body: bytes) -> bytes:
    """A body that this framing can carry."""
    if name == "netty, header counted and kept":
        return b"ab" + (len(body) + 5).to_bytes(3, "big") + body
    if name == "fixed":
        return (body + bytes(7))[:7]
    if name == "line":
        return body.replace(b"\n", b"-").replace(b"\r", b"-")
    return body.replace(b"\0", b"-") if name == "delimiter" else body


@pytest.mark.parametrize("name", FRAMINGS)
@given(
    bodies=st.lists(st.binary(max_size=300), max_size=8), cuts=st.lists(st.integers(0, 2_000), max_size=12)
)
def test_any_split_gives_the_frames_that_were_sent(name: str, bodies: list[bytes], cuts: list[int]) -> None:
    make, encode = FRAMINGS[name]
    bodies = [clean(name, body) for body in bodies]
    stream = b"".join(encode(body) for body in bodies)
    decoder = make()
    assert [frame for piece in pieces(stream, cuts) for frame in decoder.feed(memoryview(piece))] == bodies
    assert (decoder.waiting_bytes, decoder.error) == (0, None)
    decoder = make()
    assert [frame for byte in stream for frame in decoder.feed(bytes([byte]))] == bodies


@pytest.mark.parametrize("name", FRAMINGS)
@given(data=st.binary(max_size=400), cuts=st.lists(st.integers(0, 400), max_size=8))
def test_any_bytes_give_frames_or_a_typed_error(name: str, data: bytes, cuts: list[int]) -> None:
    def outcome(parts: list[bytes]) -> tuple[list[bytes], str | None]:
        decoder, frames = FRAMINGS[name][0](), []
        for part in parts:
            try:
                frames += decoder.feed(part)
            except FrameError:
                assert decoder.error is not None
        return frames, decoder.error

    assert outcome(pieces(data, cuts)) == outcome([data])


def test_limits_and_wrong_parameters_are_named() -> None:
    decoder = FrameDecoder.line(limit=8)
    assert decoder.feed(b"short\n") == [b"short"]
    with pytest.raises(FrameError, match="limit 8"):
        decoder.feed(b"longer than that")
    with pytest.raises(FrameError, match="limit 8"):
        decoder.feed(b"short\n")
    for make, parameter in (
        (lambda: FrameDecoder.fixed(0), "limit"),
        (lambda: FrameDecoder.delimiter(b""), "delimiter"),
        (lambda: FrameDecoder.length_field(9), "size"),
        (lambda: FrameDecoder.length_field(4, offset=2_000), "offset"),
        (lambda: FrameDecoder.length_field(4, limit=10, strip=11), "strip"),
    ):
        with pytest.raises(ValueError, match=f"^{parameter} must be"):
            make()


# PacketBatch

ROWS = st.lists(
    st.tuples(st.integers(0, 0xEF), st.integers(0, 2**64 - 1), st.binary(max_size=200)), max_size=300
)


def stream_of(rows: list[tuple[int, int, bytes]]) -> bytes:
    return b"".join(HEAD.pack(12 + len(p), kind, 0, 0, sequence) + p for kind, sequence, p in rows)


@settings(max_examples=50)
@given(rows=ROWS, rest=st.binary(max_size=15), connection=st.integers(0, 2**64 - 1))
def test_packets_are_the_same_as_rows_and_as_columns(
    rows: list[tuple[int, int, bytes]], rest: bytes, connection: int
) -> None:
    data = stream_of(rows)
    if len(rest) >= 4:
        rest = b"\x10\0\0\0" + rest[4:][:3]
    batch, consumed = PacketBatch.decode(bytearray(data + rest), connection)
    expected = [(connection, *row) for row in rows]
    assert consumed == len(data)
    assert list(batch) == batch.packets() == [batch[index] for index in range(len(batch))] == expected
    assert batch.payloads() == [payload for _, _, payload in rows]
    arena = bytes(batch.arena)
    columns = zip(batch.connection, batch.kind, batch.sequence, batch.offset, batch.length, strict=True)
    assert [(c, k, s, arena[o : o + n]) for c, k, s, o, n in columns] == expected


@given(data=st.binary(max_size=300), limit=st.integers(12, 100))
def test_any_bytes_give_packets_or_an_error(data: bytes, limit: int) -> None:
    try:
        batch, consumed = PacketBatch.decode(data, 1, limit)
    except FrameError:
        return
    assert stream_of([row[1:] for row in batch]) == data[:consumed]
    assert all(len(payload) + 12 <= limit for payload in batch.payloads())


def test_numpy_views_the_columns_without_a_copy_and_keeps_them_alive() -> None:
    batch, _ = PacketBatch.decode(stream_of([(1, 10, b"ab"), (2, 2**63, b"")]), 5)
    types = {
        "connection": numpy.uint64,
        "kind": numpy.uint8,
        "sequence": numpy.uint64,
        "offset": numpy.uint32,
        "length": numpy.uint32,
        "arena": numpy.uint8,
    }
    views = {name: numpy.asarray(getattr(batch, name)) for name in types}
    for name, dtype in types.items():
        assert views[name].dtype == dtype
        again = numpy.frombuffer(getattr(batch, name), dtype)
        assert again.ctypes.data == views[name].ctypes.data
        assert not views[name].flags.writeable
        assert not views[name].flags.owndata
    del batch
    assert views["sequence"].tolist() == [10, 2**63]
    assert views["kind"].tolist() == [1, 2]


# WriteBatch

NUMBERS = st.integers(0, 2**64 - 1)


@given(st.lists(st.tuples(NUMBERS, st.integers(0, 255), NUMBERS, st.binary(max_size=50)), max_size=30))
def test_columns_are_taken_from_arrays_lists_and_numbers(rows: list[tuple[int, int, int, bytes]]) -> None:
    arena = b"".join(payload for *_, payload in rows)
    ends = numpy.cumsum([len(payload) for *_, payload in rows], dtype=numpy.uint32)
    length = [len(payload) for *_, payload in rows]
    offset = [int(end) - size for end, size in zip(ends, length, strict=True)]
    connection, kind, sequence = ([row[column] for row in rows] for column in range(3))
    lists = WriteBatch.columns(connection, arena, offset, length, kind, sequence)
    arrays = WriteBatch.columns(
        numpy.array(connection, numpy.uint64),
        bytearray(arena),
        array.array("I", offset),
        numpy.array(length, numpy.uint32),
        bytes(kind),
        numpy.array(sequence, numpy.uint64),
    )
    assert len(lists) == len(arrays) == len(rows)
    assert repr(lists) == repr(arrays)


def test_wrong_columns_are_refused() -> None:
    with pytest.raises(IndexError, match="row 1 ends at 7: the arena has 5 bytes"):
        WriteBatch.columns([1, 2], b"12345", [0, 3], [3, 4])
    with pytest.raises(ValueError, match="kind has 1 rows, connection has 2"):
        WriteBatch.columns([1, 2], b"12345", 0, 5, [1])
    with pytest.raises(ValueError, match="sequence: numbers out of range"):
        WriteBatch.columns([1], b"12345", 0, 5, 0, [-1])
    batch, _ = PacketBatch.decode(stream_of([(1, 1, b"a"), (1, 2, b"b")]))
    assert len(batch.reply([b"x", None])) == 1
    with pytest.raises(ValueError, match="fewer answers than the 2"):
        batch.reply([b"x"])
    with pytest.raises(ValueError, match="more answers than the 2"):
        batch.reply([b"x"] * 3)


def test_writes_are_added_one_by_one_or_for_many() -> None:
    writes = WriteBatch()
    writes.add(1, b"one")
    writes.add(2, memoryview(b"two"), kind=3, sequence=4)
    writes.broadcast(range(5), bytearray(b"all"))
    assert len(writes) == 7
    assert repr(writes) == "<WriteBatch: 7 packets, 9 bytes>"
    writes.clear()
    assert len(writes) == 0
