"""A session's frames and actions: kept until acked, none twice, all bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmqgame import limits
from zmqgame.play.player import Overfull, Session, Turn
from zmqgame.protocol import RawId


def make():
    return Session("ann", 7, 1, 0)


def test_frames_are_numbered_and_kept_until_acked():
    session = make()
    first = session.push(0x43, b"a")
    session.push(0x42, b"b", RawId(1, 1, 1))
    session.push(0x42, b"c", RawId(1, 1, 2))
    assert first.number == 1
    assert session.holds(RawId(1, 1, 2))
    assert session.ack(2) == [RawId(1, 1, 1)]
    assert [frame.payload for frame in session.after(0)] == [b"c"]
    assert session.after(3) == []


def test_bytes_of_other_policies_have_a_rate_and_a_burst():
    bucket = make().loose_bucket
    assert bucket.take(0, limits.LOOSE_BYTES_BURST)
    assert not bucket.take(0, 1)
    assert not bucket.take(500, limits.LOOSE_BYTES_PER_SECOND)
    assert bucket.take(1_000, limits.LOOSE_BYTES_PER_SECOND)
    assert not bucket.take(1_000)


def test_a_client_that_never_acks_is_overfull():
    session = make()
    for _ in range(limits.KEPT_FRAMES):
        session.push(0x43, b"")
    with pytest.raises(Overfull) as error:
        session.push(0x43, b"")
    assert error.value.limit == "kept frames"
    session = make()
    for _ in range(limits.KEPT_BYTES // 60_000):
        session.push(0x43, bytes(60_000))
    with pytest.raises(Overfull) as error:
        session.push(0x43, bytes(60_000))
    assert error.value.limit == "kept bytes"


def test_actions_are_done_once_and_in_order():
    session = make()
    assert session.turn(2, 0) is Turn.GAP
    assert session.turn(1, 0) is Turn.HANDLE
    session.last_action = 1
    assert session.turn(1, 0) is Turn.AGAIN


def test_actions_have_a_rate():
    session = make()
    turns = [session.turn(1, 0) for _ in range(limits.ACTION_BURST + 1)]
    assert turns[-1] is Turn.OVER_RATE
    assert turns[:-1] == [Turn.HANDLE] * limits.ACTION_BURST
    assert session.turn(1, 1_000) is Turn.HANDLE


def test_input_packets_have_a_rate():
    session = make()
    taken = [session.input_bucket.take(0) for _ in range(limits.INPUT_BURST + 1)]
    assert taken == [True] * limits.INPUT_BURST + [False]


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 30)), max_size=80))
def test_a_client_that_comes_back_misses_nothing(steps):
    """Connections drop at any time; the client has always each frame once and in order."""
    session, got, connected = make(), [], True
    for pushes, drops, number in steps:
        if drops:
            connected = not connected
            if connected:
                got += [frame.number for frame in session.after(len(got))]
        if pushes:
            frame = session.push(0x43, b"")
            if connected:
                got.append(frame.number)
        if number <= len(got):
            session.ack(number)
    got += [frame.number for frame in session.after(len(got))]
    assert got == list(range(1, 1 + sum(pushes for pushes, _, _ in steps)))
