"""Listeners that cut their streams by a rule: any split gives the same frames, an echo is byte-exact."""

import random
import struct

import pytest
from zmqgame_native import FrameDecoder

from tests.edge_tools import OPEN, dial, read_all, running

END = b"\r\n\r\n"
STREAMS = {
    "lines": ("lines", [b"", b"one", b"x" * 3_000, b"two"], lambda body: body + b"\n"),
    "delimiter": (
        FrameDecoder.delimiter(END),
        [b"a", b"", b"b" * 999],
        lambda body: body + END,
    ),
    "fixed": (FrameDecoder.fixed(5), [b"12345", b"abcde"] * 50, lambda body: body),
    "gonet": (
        FrameDecoder.length_field(2, big_endian=True),
        [b"", b"x", b"y" * 60_000],
        lambda body: struct.pack(">H", len(body)) + body,
    ),
    "netty": (
        FrameDecoder.length_field(4, offset=2, adjustment=-6, strip=6),
        [b"", b"x", b"y" * 60_000],
        lambda body: bytes(2) + struct.pack("<I", len(body) + 6) + body,
    ),
    "header kept": (FrameDecoder.length_field(1, strip=0), [b"\x02ab", b"\x00"], lambda body: body),
}


@pytest.mark.parametrize("name", STREAMS)
def test_any_split_gives_the_same_frames_and_an_echo_is_byte_exact(name: str) -> None:
    framing, bodies, encode = STREAMS[name]
    stream, rng = b"".join(map(encode, bodies)), random.Random(1)
    with running() as (edge, consumer):
        address = edge.listen_tcp("127.0.0.1:0", framing=framing)
        for pieces in (1, 20):
            client = dial(address)
            cuts = sorted(rng.randrange(len(stream) + 1) for _ in range(pieces - 1))
            for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
                client.sendall(stream[start:end])
            connection = consumer.opened(1 if pieces == 1 else 2)[-1]
            consumer.until(lambda rows: len(consumer.packets(connection)) >= len(bodies))  # noqa: B023
            assert consumer.packets(connection) == [(0, 0, body) for body in bodies]
            edge.send([row for row in consumer.rows if row[0] == connection and row[1] < OPEN])
            edge.close(connection)
            assert read_all(client) == stream


def test_what_is_no_frame_closes_with_its_reason() -> None:
    with running() as (edge, consumer):
        client = dial(edge.listen_tcp("127.0.0.1:0", framing=FrameDecoder.line(limit=10)))
        client.sendall(b"short\nmuch longer than ten")
        (connection,) = consumer.opened()
        assert "limit 10" in consumer.close_reason(connection)
        assert consumer.packets(connection) == [(0, 0, b"short")]
        with pytest.raises(ValueError, match="strip must be 0 or at least"):
            edge.listen_tcp("127.0.0.1:0", framing=FrameDecoder.length_field(4, strip=2))
        with pytest.raises(ValueError, match='framing is "x"'):
            edge.listen_tcp("127.0.0.1:0", framing="x")
