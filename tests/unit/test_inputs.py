"""The input buffer: what comes, late, early, twice or never."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmqgame import limits
from zmqgame.play.inputs import InputBuffer
from zmqgame.play.rules import Refused


def buffer(missing="repeat"):
    return InputBuffer(1, b"\0", missing)


def packet(*inputs):
    return bytes([len(inputs)]) + bytes(inputs)


def test_inputs_are_taken_at_their_frames():
    inputs = buffer()
    inputs.add(1, packet(11, 10))
    assert [inputs.take(0), inputs.take(1)] == [b"\x0a", b"\x0b"]
    assert inputs.counters.taken == 2


def test_missing_ones_repeat_the_last_then_become_neutral():
    inputs = buffer()
    inputs.add(0, packet(7))
    taken = [inputs.take(frame) for frame in range(limits.INPUT_REPEAT_FRAMES + 2)]
    assert taken == [b"\x07"] * (limits.INPUT_REPEAT_FRAMES + 1) + [b"\0"]


def test_the_rule_neutral_repeats_nothing():
    inputs = buffer("neutral")
    inputs.add(0, packet(7))
    assert [inputs.take(0), inputs.take(1)] == [b"\x07", b"\0"]


def test_a_late_input_is_what_is_repeated_next():
    inputs = buffer()
    assert inputs.take(0) == b"\0"
    inputs.add(0, packet(9))
    assert inputs.take(1) == b"\x09"
    assert inputs.counters.late == 1


def test_too_early_ones_are_counted_and_dropped():
    inputs = buffer()
    inputs.add(limits.INPUT_WINDOW_FRAMES + 1, packet(1, 2))
    assert len(inputs) == 0
    assert inputs.counters.early == 2


@pytest.mark.parametrize("payload", [b"", b"\0", b"\1", b"\2\1", b"\1\1\1", bytes([255]) + bytes(255)])
def test_wrong_bytes_are_refused(payload):
    with pytest.raises(Refused) as error:
        buffer().add(0, payload)
    assert error.value.kind == "malformed"


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.binary(max_size=40), st.booleans()), max_size=60))
def test_any_packets_leave_it_bounded(steps):
    inputs = buffer()
    frame = 0
    for number, payload, forward in steps:
        with contextlib.suppress(Refused):
            inputs.add(number % 80 if forward else number, payload)
        if forward:
            assert len(inputs.take(frame)) == 1
            frame += 1
        assert len(inputs) <= limits.INPUT_WINDOW_FRAMES + 1


@given(st.lists(st.integers(1, 255), min_size=1, max_size=100), st.data())
def test_redundancy_makes_up_for_loss(values, data):
    """Each packet holds the last 4 inputs: as long as no 4 in a row are lost, every input counts."""
    inputs = buffer()
    lost_in_a_row = 0
    for frame in range(len(values)):
        if lost_in_a_row < 3 and frame + 1 < len(values) and data.draw(st.booleans()):
            lost_in_a_row += 1
        else:
            lost_in_a_row = 0
            inputs.add(frame, packet(*reversed(values[max(0, frame - 3) : frame + 1])))
        if frame >= 3:
            assert inputs.take(frame - 3) == bytes([values[frame - 3]])
