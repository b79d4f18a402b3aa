"""Policy, time to live and time of delivery, as the native module takes them."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from zmqgame_bus.options import send_options


def test_what_is_usual_costs_nothing():
    assert send_options("must-deliver", "", None, None, False) is None
    assert send_options("must-deliver", "", None, None, False, quiet=True) is None


def test_a_ttl_is_an_absolute_deadline():
    before = time.time() * 1000
    options = send_options("droppable", "", 1.5, None, False, quiet=True)
    assert options is not None
    policy, key, deadline_ms, at_ms, trace, quiet = options
    assert (policy, key, at_ms, trace, quiet) == (2, "", 0, False, True)
    assert before + 1_499 <= deadline_ms <= time.time() * 1000 + 1_501


def test_a_deferred_message_lives_from_its_delivery_on():
    at = datetime.now(UTC) + timedelta(hours=1)
    options = send_options("must-deliver", "", 60, at, True)
    assert options is not None
    assert options[3] == round(at.timestamp() * 1000)
    assert options[2] == options[3] + 60_000
    assert options == send_options("must-deliver", "", 60, at.timestamp(), True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("later", "", None, None), "none of must-deliver, latest, droppable"),
        (("droppable", "k", None, None), "key is for the policy latest"),
        (("latest", "k", 0, None), "needs some time"),
        (("must-deliver", "", None, datetime(2030, 1, 1)), "no time zone"),
    ],
)
def test_nonsense_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        send_options(*arguments, False)
