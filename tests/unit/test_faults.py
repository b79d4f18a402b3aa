"""The simulated network: the same seed decides the same, streams stay in order, datagrams need not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmqgame.faults import Faults, Wire

BAD = Faults(latency_ms=50, jitter_ms=40, loss=0.2, reorder=0.3, repeat=0.1, disconnect=0.02)


def run(seed, faults, count=2_000):
    wire = Wire(seed)
    return [wire.datagram(faults, number * 5.0) for number in range(count)]


def test_the_same_seed_decides_the_same():
    assert run("7", BAD) == run("7", BAD)
    assert run("7", BAD) != run("8", BAD)
    streams = [[Wire("7").stream(BAD, 0.0) for _ in range(9)] for _ in range(2)]
    assert streams[0] == streams[1]


def test_datagrams_are_lost_repeated_and_overtaken():
    times = run("7", BAD)
    lost = sum(not each for each in times) / len(times)
    twice = sum(len(each) == 2 for each in times) / len(times)
    assert 0.15 < lost < 0.25
    assert 0.05 < twice < 0.12
    firsts = [each[0] for each in times if each]
    assert firsts != sorted(firsts)
    assert all(at >= number * 5.0 + 50 for number, each in enumerate(times) for at in each)


@given(st.integers(0, 99), st.floats(0, 1), st.floats(0, 500), st.lists(st.floats(0, 50), max_size=60))
def test_a_stream_keeps_its_order_and_a_break_ends_it(seed, loss, jitter_ms, gaps):
    wire, now_ms, before = Wire(str(seed)), 0.0, 0.0
    for gap in gaps:
        now_ms += gap
        at_ms = wire.stream(Faults(loss=loss, jitter_ms=jitter_ms), now_ms)
        assert at_ms is not None
        assert at_ms >= max(before, now_ms)
        before = at_ms
    assert wire.stream(Faults(disconnect=1.0), now_ms) is None


def test_without_faults_it_is_a_wire():
    assert run("7", Faults(), 50) == [[number * 5.0] for number in range(50)]


@pytest.mark.parametrize("wrong", [{"loss": 1.1}, {"reorder": -0.1}, {"latency_ms": -1}, {"jitter_ms": 1e9}])
def test_what_is_no_share_or_time_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Faults(**wrong)
