"""A slice of `python -m tests.load kill`: what is promised holds; how long it took is not asked here."""

from tests.load.kill import broken, kill


async def test_a_killed_server_costs_its_clients_no_message(tmp_path):
    result = await kill(tmp_path, clients=80, processes=2, quiet_s=1.0, dead_ms=60_000)
    assert result["messages"] >= 80 * 8
    assert not broken(result), result
    assert broken({**result, "lost": 1}) == ["lost is 1, not 0"]
    assert len(broken(result, most_s=0)) == 1


async def test_a_server_that_stops_hands_all_its_sessions_over(tmp_path):
    result = await kill(tmp_path, clients=80, processes=2, quiet_s=1.0, planned=True, dead_ms=60_000)
    assert result["resumed"] == 80
    assert not broken(result), result
