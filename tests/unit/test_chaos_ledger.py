"""The checker of chaos: each kind of finding is found, and what is allowed is not."""

import pytest

from tests.chaos.ledger import FINDINGS, Ledger
from tests.chaos.values import Value, whole


@pytest.fixture
def ledger():
    return Ledger({"guild": {"a", "b"}})


def send(ledger, number, player="a", outcome="delivered", start=1, kind="to"):
    text = f"s0.{start}.{number}.0"
    ledger.sent(text, player, kind)
    if outcome:
        ledger.receipt(text, player, outcome, "", 100)
    return text


def found(ledger):
    ledger.settle()
    return {name: getattr(ledger.totals, name) for name in FINDINGS if getattr(ledger.totals, name)}


def test_what_is_handled_once_and_in_order_is_fine(ledger):
    for number in range(1, 4):
        ledger.handled("a", "one", send(ledger, number), 50)
    assert not ledger.waiting({"s0": 1})
    assert found(ledger) == {}
    assert ledger.totals.acked == 3


def test_an_acked_message_that_nobody_handled_is_lost(ledger):
    send(ledger, 1, outcome="stored")
    assert len(ledger.waiting({"s0": 1})) == 1
    assert found(ledger) == {"lost": 1}


def test_a_message_without_receipt_is_waited_for_while_its_sender_lives_and_unknown_after(ledger):
    text = send(ledger, 1, outcome="")
    assert ledger.waiting({"s0": 1})
    assert not ledger.waiting({"s0": 2})
    assert found(ledger) == {}
    assert ledger.totals.unknown == 1
    ledger.settle()
    ledger.settle()
    ledger.handled("a", "one", text, 5)  # late, and once
    assert found(ledger) == {}
    ledger.handled("a", "one", text, 6)
    assert found(ledger) == {"duplicated": 1}


def test_twice_in_a_session_or_after_a_logout_is_a_duplicate(ledger):
    text = send(ledger, 1)
    ledger.handled("a", "one", text, 1)
    ledger.handled("a", "one", text, 2)
    ledger.handled("a", "two", text, 3)
    assert found(ledger) == {"duplicated": 2}


def test_only_a_client_without_memory_may_see_again_and_only_what_is_young(ledger):
    young = send(ledger, 1)
    ledger.handled("a", "one", young, 1)
    ledger.forgot("one")
    ledger.settle()
    ledger.handled("a", "two", young, 3)
    assert (found(ledger), ledger.totals.repeated) == ({}, 1)
    ledger.settle()
    ledger.forgot("two")
    ledger.handled("a", "three", young, 4)
    assert found(ledger) == {"duplicated": 1}


def test_order_is_checked_in_a_session_over_sessions_and_over_starts_of_the_sender(ledger):
    first, second, third = send(ledger, 1), send(ledger, 2), send(ledger, 1, start=2)
    ledger.handled("a", "one", second, 1)
    ledger.handled("a", "two", first, 2)
    ledger.handled("a", "two", third, 3)
    assert found(ledger) == {"out_of_order": 1}


def test_what_nobody_sent_or_was_for_another_is_never_sent(ledger):
    ledger.handled("b", "one", send(ledger, 1), 1)
    ledger.handled("a", "two", "s0.1.1.0", 1)
    ledger.handled("a", "two", "s0.1.77.0", 1)
    ledger.handled("a", "two", "damaged:'x'", 1)
    assert found(ledger) == {"never_sent": 3}


def test_delivered_before_it_was_handled_is_untrue(ledger):
    ledger.handled("a", "one", send(ledger, 1), 101)
    assert found(ledger) == {"untrue": 1}


def test_a_refusal_and_a_report_without_a_member_are_found(ledger):
    send(ledger, 1, outcome="refused")
    ledger.sent("s0.1.2.0", "guild", "group")
    ledger.report("s0.1.2.0", "done", {"a": "delivered"}, 100)
    ledger.handled("a", "one", "s0.1.2.0", 1)
    assert found(ledger) == {"refused": 2}


def test_each_recipient_of_a_group_counts(ledger):
    ledger.sent("s0.1.1.0", "guild", "group")
    ledger.report("s0.1.1.0", "done", {"a": "delivered", "b": "stored"}, 100)
    ledger.handled("a", "one", "s0.1.1.0", 1)
    assert found(ledger) == {"lost": 1}


def test_what_is_for_later_comes_in_any_order_and_is_not_lost(ledger):
    late, now = send(ledger, 1, outcome="stored", kind="later"), send(ledger, 2)
    ledger.handled("a", "one", now, 1)
    assert ledger.waiting({"s0": 1})
    ledger.handled("a", "one", late, 2)
    assert found(ledger) == {}
    ledger.handled("a", "one", late, 3)
    send(ledger, 3, outcome="stored", kind="later")
    assert found(ledger) == {"duplicated": 1, "lost": 1}


def test_what_may_be_dropped_comes_at_most_once_and_not_after_it_was_dropped(ledger):
    sent = send(ledger, 1, outcome="sent", kind="loose")
    dropped = send(ledger, 2, outcome="dropped", kind="loose")
    send(ledger, 3, outcome="sent", kind="loose")
    send(ledger, 4, outcome="", kind="loose")
    ledger.handled("a", "one", sent, 1)
    assert not ledger.waiting({"s0": 1})
    assert found(ledger) == {}
    ledger.forgot("one")
    ledger.handled("a", "two", sent, 2)
    ledger.handled("a", "two", dropped, 3)
    assert found(ledger) == {"duplicated": 1, "untrue": 1}


def test_a_value_shows_whether_it_came_whole():
    value = Value("s0", 3, 4, 20)
    assert whole(value.payload()) == str(value)
    for damaged in (value.payload()[:-1], value.payload() + "x", "s0.3.4", "s0.3.4.2|..", ""):
        assert whole(damaged) is None
