"""A hub is killed under load and comes back: no game server restarts, nothing acked is lost.

How fast: `python -m tests.chaos.restart`. Here is no limit of time, only what must hold.
"""

import pytest

from tests.chaos.restart import Shape, measure

# Nobody is given up for silence: with all these players a slow machine stands still for seconds.
PATIENT = {"hub.dead_ms": 60_000}
FAULTLESS = {"lost": 0, "doubled": 0, "dropped": 0, "farms_restarted": 0, "refused": 0, "expired": 0}


def faults(result):
    return {name: result.get(name, 0) for name in FAULTLESS}


@pytest.mark.slow
async def test_ten_thousand_players_on_twenty_nodes_are_back_after_a_hub_kill(tmp_path):
    result = await measure(tmp_path, Shape(settings=PATIENT))
    assert faults(result) == FAULTLESS, result
    assert result["delivered"] > 0


async def test_all_nodes_come_back_in_the_same_moment(tmp_path):
    result = await measure(tmp_path, Shape(nodes=20, players=2_000, together=True, settings=PATIENT))
    assert faults(result) == FAULTLESS, result


async def test_a_node_that_never_comes_back_leaves_stored_messages_and_holds_no_one_up(tmp_path):
    result = await measure(tmp_path, Shape(nodes=10, players=1_000, away=2, settings=PATIENT))
    assert faults(result) == FAULTLESS, result
    assert result["stored"] > 0, "for the players of the nodes that are gone"
    assert result["first_delivered_ms"] < result["settled_ms"]
