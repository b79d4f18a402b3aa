"""The encoding of events: round trips, and any bytes at all."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmqgame_bus.limits import EVENT_BYTES_MAX, EVENT_FRAME_BYTES_MAX
from zmqgame_bus.records import (
    ANNOUNCE,
    LOST,
    RECORDS,
    FrameError,
    decode_frame,
    decode_records,
    encode_frame,
    encode_record,
    frame_head,
)

records = st.lists(st.tuples(st.integers(0, 2**64 - 1), st.binary(max_size=50)), max_size=8)
sources = st.text(min_size=1, max_size=30)


def encode(items) -> bytes:
    return b"".join(encode_record(seq, body) for seq, body in items)


@given(records, sources, st.integers(0, 2**64 - 1))
def test_records_round_trip(items, source, epoch):
    frame = decode_frame(frame_head(RECORDS, source, epoch) + encode(items))
    assert (frame.source, frame.epoch, frame.records) == (source, epoch, items)


@given(records, st.data())
def test_a_cut_gives_the_whole_records_before_it(items, data):
    whole = encode(items)
    cut = data.draw(st.integers(0, len(whole)))
    found, stop = decode_records(whole[:cut])
    assert found == items[: len(found)]
    assert stop == len(encode(found)) <= cut
    assert len(found) == len(items) or stop + len(encode([items[len(found)]])) > cut


@given(records.filter(bool), st.data())
def test_a_changed_byte_is_noticed(items, data):
    whole = bytearray(encode(items))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    found, stop = decode_records(bytes(whole))
    assert found == items[: len(found)]
    assert stop <= place


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_a_typed_error(data):
    for frame in (data, b"ZGE1" + data):
        with contextlib.suppress(FrameError):
            decode_frame(frame)


def test_zeros_are_no_record():
    assert decode_records(bytes(100)) == ([], 0)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "length"),
        (b"ZGE2" + bytes(12), "magic"),
        (frame_head(RECORDS, "a", 1) + b"x", "record"),
        (frame_head(9, "a", 1), "kind"),
        (frame_head(ANNOUNCE, "a", 1) + b"{", "json"),
        (frame_head(LOST, "a", 1), "json"),
        (frame_head(RECORDS, "", 1), "length"),
        (frame_head(RECORDS, "a" * 123, 1), "length"),
        (frame_head(RECORDS, "a", 1) + bytes(EVENT_FRAME_BYTES_MAX), "limit"),
        (frame_head(RECORDS, "a", 1) + encode_record(1, bytes(EVENT_BYTES_MAX + 1)), "record"),
    ],
)
def test_each_refusal_names_its_kind(data, kind):
    with pytest.raises(FrameError) as caught:
        decode_frame(data)
    assert caught.value.kind == kind


def test_announce_and_lost_round_trip():
    assert decode_frame(encode_frame(ANNOUNCE, "game-1", 7, [[7, 1, 9]])).data == [[7, 1, 9]]
    assert (
        decode_frame(encode_frame(LOST, "game-1", 7, {"first": 1, "last": 2, "reason": "x"})).data["last"]
        == 2
    )
