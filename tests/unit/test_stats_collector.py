"""The collector: what it takes, asks, plans, confirms; memory, progress, and whatever frames come."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zmqgame.limits import STATS_EPOCHS_KEPT, STATS_SOURCES_MAX
from zmqgame.stats.collector import Ask, Collector, Plan, check_frame
from zmqgame.stats.journal import Journal, JournalDamaged
from zmqgame_bus.records import ANNOUNCE, LOST, RECORDS, Frame, FrameError, decode_frame


def records(first: int, last: int, source: str = "game-1", epoch: int = 7) -> Frame:
    return Frame(RECORDS, source, epoch, [(number, b"%d" % number) for number in range(first, last + 1)])


def announce(*epochs: tuple[int, int, int], source: str = "game-1", epoch: int = 7) -> Frame:
    return Frame(ANNOUNCE, source, epoch, [], [list(item) for item in epochs])


def commit(collector: Collector) -> Plan | None:
    plan = collector.plan(1_000)
    if plan is not None:
        collector.committed(plan)
        collector.released(plan)
    return plan


def test_a_batch_goes_in_is_committed_and_confirmed():
    collector = Collector(buffer_bytes=1 << 20)
    collector.receive(records(1, 3))
    plan = commit(collector)
    assert plan is not None
    assert plan.rows == 3
    assert list(collector.confirmations()) == [("game-1", [(7, 3)])]
    collector.confirmed("game-1", [(7, 3)])
    assert list(collector.confirmations()) == []
    assert collector.waiting_bytes == 0


def test_a_gap_is_asked_for_oldest_epoch_first_and_confirmation_waits_for_it():
    collector = Collector(buffer_bytes=1 << 20)
    collector.receive(records(4, 6, epoch=8))
    collector.receive(announce((7, 1, 9), (8, 1, 6), epoch=8))
    assert list(collector.asks()) == [Ask("game-1", 7, 1, 9)]
    collector.receive(records(1, 9))
    assert list(collector.asks()) == [Ask("game-1", 8, 1, 3)]
    commit(collector)
    assert list(collector.confirmations()) == [("game-1", [(7, 9)])]


def test_what_came_before_is_dropped_in_part_or_whole():
    collector = Collector(buffer_bytes=1 << 20)
    collector.receive(records(1, 5))
    collector.receive(records(4, 8))
    collector.receive(records(1, 8))
    plan = commit(collector)
    assert plan is not None
    assert [seq for frame in plan.frames for seq, _ in frame.records] == list(range(1, 9))
    assert collector.status()[0]["repeated"] == 2 + 8


def test_over_its_bound_nothing_is_taken_and_it_is_asked_for_later():
    collector = Collector(buffer_bytes=1_000)
    collector.receive(records(1, 20))
    assert collector.full
    collector.receive(records(21, 22))
    assert collector.counters["frames_postponed"] == 1
    assert list(collector.asks()) == []
    commit(collector)
    assert list(collector.asks()) == [Ask("game-1", 7, 21, 22)]


def test_lost_numbers_are_in_the_plan_and_confirmed_as_the_others():
    collector = Collector(buffer_bytes=1 << 20)
    collector.receive(records(5, 6))
    collector.receive(Frame(LOST, "game-1", 7, [], {"first": 1, "last": 4, "reason": "gone"}))
    plan = commit(collector)
    assert plan is not None
    assert plan.frames[1].data == {"first": 1, "last": 4, "reason": "gone"}
    assert list(collector.confirmations()) == [("game-1", [(7, 6)])]
    assert collector.status()[0]["lost"] == 4


def test_progress_goes_on_where_it_was():
    collector = Collector(buffer_bytes=1 << 20)
    collector.receive(records(1, 5))
    collector.receive(records(9, 10))
    commit(collector)
    collector.receive(records(11, 12))  # taken, not committed: missing again after a crash
    again = Collector(buffer_bytes=1 << 20)
    again.restore(orjson.loads(orjson.dumps(collector.progress())))
    again.receive(records(9, 12))
    plan = commit(again)
    assert plan is not None
    assert [seq for frame in plan.frames for seq, _ in frame.records] == [11, 12]
    assert list(again.asks()) == [Ask("game-1", 7, 6, 8)]


def test_finished_epochs_are_forgotten_and_their_frames_refused():
    collector = Collector(buffer_bytes=1 << 20)
    epochs = range(1, STATS_EPOCHS_KEPT + 20)
    for epoch in epochs:
        collector.receive(records(1, 2, epoch=epoch))
        commit(collector)
        collector.receive(announce((epoch, 3, 2), epoch=epoch))
    assert len(collector.sources["game-1"].epochs) <= STATS_EPOCHS_KEPT + 1
    collector.receive(records(1, 2, epoch=1))
    assert collector.plan(10) is None
    assert collector.counters["frames_refused"] == 1


def test_an_epoch_with_a_hole_is_never_forgotten():
    collector = Collector(buffer_bytes=1 << 20)
    collector.receive(records(2, 2, epoch=1))
    for epoch in range(2, STATS_EPOCHS_KEPT + 20):
        collector.receive(records(1, 2, epoch=epoch))
        commit(collector)
        collector.receive(announce((epoch, 3, 2), epoch=epoch))
    assert list(collector.asks()) == [Ask("game-1", 1, 1, 1)]


def test_sources_are_bounded():
    collector = Collector(buffer_bytes=1 << 30)
    for number in range(STATS_SOURCES_MAX + 1):
        collector.receive(records(1, 1, source=f"s{number}"))
    assert len(collector.sources) == STATS_SOURCES_MAX
    assert collector.counters["frames_refused"] == 1


@pytest.mark.parametrize(
    "frame",
    [
        Frame(ANNOUNCE, "a", 1, [], {}),
        Frame(ANNOUNCE, "a", 1, [], [[1, 2]]),
        Frame(ANNOUNCE, "a", 1, [], [[1, -2, 3]]),
        Frame(ANNOUNCE, "a", 1, [], [[1, 2, True]]),
        Frame(LOST, "a", 1, [], []),
        Frame(LOST, "a", 1, [], {"first": 2, "last": 1}),
        Frame(LOST, "a", 1, [], {"first": 0, "last": 1}),
        Frame(LOST, "a", 1, [], {"first": "1", "last": 1}),
    ],
)
def test_json_of_the_wrong_shape_is_refused(frame):
    with pytest.raises(FrameError):
        check_frame(frame)


spans = st.tuples(st.integers(1, 30), st.integers(0, 8))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("records"), spans, st.integers(1, 2)),
        st.tuples(st.just("announce"), spans, st.integers(1, 2)),
        st.tuples(st.just("lost"), spans, st.integers(1, 2)),
        st.tuples(st.just("commit"), spans, st.just(1)),
        st.tuples(st.just("crash"), spans, st.just(1)),
    ),
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(steps)
def test_whatever_comes_each_number_is_committed_once(history):
    """A crash forgets what was not committed; the rows are what plans held."""
    collector = Collector(buffer_bytes=4_000)
    rows: list[tuple[int, int]] = []
    lost: list[tuple[int, int]] = []
    for what, (first, size), epoch in history:
        if what == "records":
            collector.receive(records(first, first + size, epoch=epoch))
        elif what == "announce":
            collector.receive(announce((epoch, first, first + size), epoch=epoch))
        elif what == "lost":
            data = {"first": first, "last": first + size, "reason": ""}
            collector.receive(Frame(LOST, "game-1", epoch, [], data))
        elif what == "crash":
            saved = orjson.loads(orjson.dumps(collector.progress()))
            collector = Collector(buffer_bytes=4_000)
            collector.restore(saved)
        elif (plan := commit(collector)) is not None:
            plan = Plan.parse(plan.data)
            for frame in plan.frames:
                rows += [(frame.epoch, seq) for seq, _ in frame.records]
                if frame.kind == LOST:
                    span = range(frame.data["first"], frame.data["last"] + 1)
                    lost += [(frame.epoch, number) for number in span]
    assert len(set(rows + lost)) == len(rows + lost)
    for _, confirmed in collector.confirmations():
        for epoch, up_to in confirmed:
            assert {(epoch, number) for number in range(1, up_to + 1)} <= set(rows + lost)
    assert collector.waiting_bytes >= 0


def test_a_plan_is_read_back_as_it_was_or_refused(tmp_path):
    plan = Plan.of([records(1, 3), Frame(LOST, "game-1", 7, [], {"first": 4, "last": 5, "reason": "x"})])
    journal = Journal(tmp_path)
    assert journal.read_plan() is None
    journal.write_plan(plan)
    again = journal.read_plan()
    assert again == plan
    assert again.digest == plan.digest
    data = (tmp_path / "plan").read_bytes()
    (tmp_path / "plan").write_bytes(data[:-3])
    with pytest.raises((JournalDamaged, FrameError)):
        journal.read_plan()
    assert decode_frame(plan.data[4 : 4 + int.from_bytes(plan.data[:4], "little")]).source == "game-1"
