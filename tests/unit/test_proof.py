"""The proof: it holds for what really happened, and each kind of damage breaks it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmqgame.cli.proof import Events, Evidence, Handled, Sent, judge

KEY = 7
ALICE, BOB = "alice", "bob"


def message(seq, kind="unicast", **outcomes):
    return Sent((KEY, 1, seq), kind, outcomes)


GOOD = Evidence(
    sent=[
        message(1, alice="delivered"),
        message(2, alice="stored"),
        message(3, "multicast", alice="delivered", bob="stored"),
        Sent((KEY, 1, 4), "broadcast", {}, delivered=2),
        message(5, carol="refused"),
        message(6, bob="stored"),
        message(7, bob="unknown"),
    ],
    handled=[
        Handled(ALICE, (KEY, 1, 1)),
        Handled(ALICE, (KEY, 1, 2)),
        Handled(BOB, (KEY, 1, 3)),
        Handled(ALICE, (KEY, 1, 3)),
        Handled(ALICE, (KEY, 1, 4)),
        Handled(BOB, (KEY, 1, 4)),
    ],
    mailbox=frozenset({(BOB, (KEY, 1, 6))}),
    published={("game-1", 1): 10, ("game-1", 2): 0, ("hub", 1): 3},
    inserted={("game-1", 1): Events(10, 10, 10), ("hub", 1): Events(3, 3, 3)},
)


def without(index):
    return replace(GOOD, handled=GOOD.handled[:index] + GOOD.handled[index + 1 :])


def test_the_truth_holds_and_is_counted():
    verdict = judge(GOOD)
    assert verdict.holds, verdict.reasons
    assert (verdict.unicast_acked, verdict.multicast_acked, verdict.broadcast_acked) == (3, 2, 2)
    assert (verdict.stored_then_delivered, verdict.unknown, verdict.waiting) == (2, 1, 1)
    assert (verdict.lost, verdict.duplicated, verdict.out_of_order) == (0, 0, 0)
    assert verdict.events_published == verdict.rows_inserted == 13


@pytest.mark.parametrize("index", range(6))
def test_each_acked_message_that_was_not_handled_is_lost(index):
    verdict = judge(without(index))
    assert verdict.lost == 1
    assert verdict.reasons[0].startswith("lost: ")


def test_a_stored_message_that_waits_nowhere_is_lost():
    verdict = judge(replace(GOOD, mailbox=frozenset()))
    assert verdict.lost == 1
    assert "stored, and never handled" in verdict.reasons[0]


def test_delivered_is_not_excused_by_the_mailbox():
    evidence = replace(without(0), mailbox=GOOD.mailbox | {(ALICE, (KEY, 1, 1))})
    assert judge(evidence).lost == 1


@pytest.mark.parametrize("index", range(6))
def test_each_message_that_was_handled_twice_is_found(index):
    verdict = judge(replace(GOOD, handled=[*GOOD.handled, GOOD.handled[index]]))
    assert verdict.duplicated == 1
    assert any(reason.startswith("duplicated: ") for reason in verdict.reasons)


def test_order_is_kept_for_each_sender_and_player():
    lines = list(GOOD.handled)
    lines[0], lines[1] = lines[1], lines[0]
    verdict = judge(replace(GOOD, handled=lines))
    assert verdict.out_of_order == 1
    other = [*GOOD.handled, Handled(ALICE, (KEY + 1, 9, 9)), Handled(ALICE, (KEY + 1, 10, 1))]
    assert judge(replace(GOOD, handled=other)).holds


def test_a_refused_message_that_was_handled_is_an_untrue_receipt():
    verdict = judge(replace(GOOD, handled=[*GOOD.handled, Handled("carol", (KEY, 1, 5))]))
    assert verdict.untrue == 1
    assert not verdict.holds


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (Events(9, 9, 10), "events without a row: game-1/1: 10 events published, 9 rows"),
        (Events(11, 10, 10), "rows inserted twice: game-1/1: 1 rows twice"),
        (Events(11, 11, 11), "rows without an event: game-1/1: row 11, though 10 events have a number"),
        (Events(10, 9, 10), "events without a row"),
    ],
)
def test_rows_are_compared_with_the_numbers_of_the_spools(rows, reason):
    verdict = judge(replace(GOOD, inserted={**GOOD.inserted, ("game-1", 1): rows}))
    assert any(each.startswith(reason) for each in verdict.reasons)


def test_a_source_may_not_be_missing_on_either_side():
    assert not judge(replace(GOOD, inserted={("hub", 1): Events(3, 3, 3)})).holds
    assert not judge(replace(GOOD, published={("game-1", 1): 10})).holds


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 30)), unique=True, max_size=60), st.data())
def test_any_single_loss_or_repeat_is_found(pairs, data):
    pairs.sort(key=lambda pair: pair[1])
    sent = [
        Sent((1, 1, seq), "multicast", {p: "delivered" for p, s in pairs if s == seq})
        for seq in {s for _, s in pairs}
    ]
    handled = [Handled(player, (1, 1, seq)) for player, seq in pairs]
    assert judge(Evidence(sent, handled)).holds
    if handled:
        index = data.draw(st.integers(0, len(handled) - 1))
        assert judge(Evidence(sent, handled[:index] + handled[index + 1 :])).lost == 1
        assert judge(Evidence(sent, [*handled, handled[index]])).duplicated == 1
