"""Gap tracking against a naive model: three sets of numbers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from zmqgame.limits import STATS_RANGES_MAX
from zmqgame.stats.gaps import EpochTracker, RangeSet

NUMBERS = 40
ranges = st.tuples(st.integers(1, NUMBERS), st.integers(0, 6)).map(lambda pair: (pair[0], pair[0] + pair[1]))
steps = st.lists(
    st.tuples(st.sampled_from(["take", "commit", "announce", "give_up", "untake"]), ranges), max_size=30
)


def numbers(found) -> set[int]:
    return {number for first, last in found for number in range(first, last + 1)}


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.booleans(), ranges), max_size=40), ranges)
def test_a_range_set_is_a_set(changes, window):
    ours, naive = RangeSet(), set()
    for adds, (first, last) in changes:
        if adds:
            ours.add(first, last)
            naive |= set(range(first, last + 1))
        else:
            ours.remove(first, last)
            naive -= set(range(first, last + 1))
        found = list(ours)
        assert numbers(found) == naive
        assert ours.count() == len(naive)
        assert all(before[1] + 1 < after[0] for before, after in pairwise(found))
    first, last = window
    assert numbers(ours.missing(first, last)) == set(range(first, last + 1)) - naive
    assert all((number in ours) == (number in naive) for number in range(NUMBERS + 10))
    prefix = 0
    while prefix + 1 in naive:
        prefix += 1
    assert ours.prefix() == prefix


@settings(max_examples=400, deadline=None)
@given(steps)
def test_the_tracker_agrees_with_three_sets(changes):
    ours = EpochTracker()
    seen, committed, lost, known = set(), set(), set(), 0
    for what, (first, last) in changes:
        wanted = set(range(first, last + 1))
        if what == "take":
            assert numbers(ours.take(first, last)) == wanted - seen
            seen |= wanted
            known = max(known, last)
        elif what == "commit":
            ours.commit(first, last)
            seen |= wanted
            committed |= wanted
            known = max(known, last)
        elif what == "announce":
            ours.announce(last)
            known = max(known, last)
        elif what == "give_up":
            lost |= wanted - committed
            ours.give_up(first, last)
            seen |= wanted
            committed |= wanted
            known = max(known, last)
        elif not wanted & committed:
            ours.untake(first, last)
            seen -= wanted
        assert numbers(ours.gaps()) == set(range(1, known + 1)) - seen
        assert numbers(ours.committed) == committed
        assert numbers(ours.lost) == lost
        assert set(range(1, ours.confirmable() + 1)) <= committed
        assert ours.confirmable() + 1 not in committed


def test_too_many_holes_are_refused_and_filled_from_the_front():
    tracker = EpochTracker()
    for number in range(2, 2 * STATS_RANGES_MAX + 2, 2):
        assert tracker.take(number, number) == [(number, number)]
    beyond = 2 * STATS_RANGES_MAX + 2
    assert tracker.take(beyond, beyond) == []
    assert tracker.known == beyond
    assert next(tracker.gaps()) == (1, 1)
    assert tracker.take(1, 1) == [(1, 1)]
    assert tracker.take(3, 3) == [(3, 3)]
    assert tracker.take(beyond, beyond) == [(beyond, beyond)]


def test_a_confirmation_that_got_lost_is_told_again():
    tracker = EpochTracker()
    tracker.commit(1, 10)
    tracker.told = 10
    tracker.announce(10, first_unconfirmed=4)
    assert tracker.told == 3
