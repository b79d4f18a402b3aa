"""The manager's parts: queue, placement, event log."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmqgame.manage.eventlog import EventLog
from zmqgame.manage.matchmaking import Queue, Ticket
from zmqgame.manage.placement import Server, Servers
from zmqgame.play.rules import Refused


def ticket(player, since_ms=0):
    return Ticket(player, "game-1", "stock", since_ms)


def players(matches):
    return [[each.player for each in match] for match in matches]


def test_matches_by_size_oldest_first():
    queue = Queue(2, 2, 1_000)
    for player in "abcde":
        assert queue.put(ticket(player))
    assert not queue.put(ticket("a", 50))
    assert players(queue.take(0)) == [["a", "b"], ["c", "d"]]
    assert len(queue) == 1


def test_patience_makes_a_smaller_match():
    queue = Queue(4, 2, 1_000)
    for player in "abc":
        queue.put(ticket(player))
    assert players(queue.take(999)) == []
    assert players(queue.take(1_000)) == [["a", "b", "c"]]


def test_who_plays_is_passed_over_and_keeps_the_place():
    queue = Queue(2, 2, 1_000)
    for player in "abc":
        queue.put(ticket(player))
    assert players(queue.take(0, lambda player: player != "a")) == [["b", "c"]]
    assert "a" in queue


def test_put_back_goes_to_the_front():
    queue = Queue(2, 2, 1_000)
    for player in "abc":
        queue.put(ticket(player))
    taken = next(iter(queue.take(0)))
    queue.put_back(taken)
    assert players(queue.take(0)) == [["a", "b"]]


def test_a_full_queue_refuses():
    queue = Queue(2, 2, 1_000, most=1)
    queue.put(ticket("a"))
    with pytest.raises(Refused) as error:
        queue.put(ticket("b"))
    assert error.value.kind == "limit"


@given(
    st.lists(st.tuples(st.sampled_from(["put", "remove", "take"]), st.integers(0, 12)), max_size=120),
    st.integers(1, 5),
)
def test_no_player_is_lost_or_in_two_matches(steps, size):
    queue = Queue(size, 1, 50)
    waiting, now_ms = {}, 0
    for what, number in steps:
        now_ms += number
        player = f"p{number}"
        if what == "put":
            queue.put(ticket(player, now_ms))
            waiting.setdefault(player, now_ms)
        elif what == "remove":
            assert queue.remove(player) == (waiting.pop(player, None) is not None)
        else:
            for match in queue.take(now_ms):
                assert 1 <= len(match) <= size
                for each in match:
                    del waiting[each.player]
        assert len(queue) == len(waiting)


def server(name, *, players=0, matches=0, seen_ms=0, capacity=10):
    return Server(name, 1, {"tcp": "", "ws": "", "udp": ""}, players, matches, capacity, 10, seen_ms)


def test_the_least_loaded_server_and_what_was_placed_counts():
    servers = Servers()
    servers.report(server("a", players=2))
    servers.report(server("b", players=1))
    assert [servers.for_player(0).name for _ in range(3)] == ["b", "a", "b"]
    servers.report(server("b", players=0))
    assert servers.for_player(0).name == "b"


def test_dead_stale_full_and_avoided_ones_are_left_out():
    servers = Servers(stale_ms=100)
    servers.report(server("a", seen_ms=0))
    servers.report(server("b", seen_ms=100))
    assert servers.for_player(150).name == "b"
    assert servers.for_player(50, avoid="a").name == "b"
    assert servers.for_player(150, avoid="b").name == "b"
    servers.by_name["b"].up = False
    with pytest.raises(Refused) as error:
        servers.for_player(150)
    assert error.value.kind == "no_server"


def test_a_match_goes_where_fewest_run_then_where_its_players_are():
    servers = Servers()
    servers.report(server("a"))
    servers.report(server("b"))
    assert servers.for_match(0, ["b", "b", "a"]).name == "b"
    assert servers.for_match(0, ["b", "b", "a"]).name == "a"


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(1, 60))
def test_servers_are_never_overfull(loads, count):
    servers = Servers()
    for number, load in enumerate(loads):
        servers.report(server(f"s{number}", players=load))
    room = sum(10 - load for load in loads)
    for number in range(count):
        if number < room:
            servers.for_player(0)
        else:
            with pytest.raises(Refused):
                servers.for_player(0)
    assert all(each.players + each.placed <= 10 for each in servers.by_name.values())


def test_the_log_keeps_matches_and_ends_them_once(tmp_path):
    log = EventLog(tmp_path / "log.sqlite")
    log.add("MatchCreated", {"players": ["a", "b"]}, match="m1", server="game-1")
    log.add("MatchCreated", {"players": ["c"]}, match="m2", server="game-2")
    assert log.add("MatchAborted", {"reason": "game server died"}, match="m1")
    assert not log.add("GameFinished", {"results": []}, match="m1")
    log.close()
    log = EventLog(tmp_path / "log.sqlite")
    assert log.open_matches() == {"m2": ("game-2", {"players": ["c"]})}
    assert [entry["event"] for entry in log.entries(match="m1")] == ["MatchAborted", "MatchCreated"]
    assert log.count("MatchCreated") == 2
    with pytest.raises(Refused):
        log.add("GameServerIsReady", {"text": "x" * 70_000})


def test_a_match_that_moved_is_open_at_its_new_server_after_a_restart(tmp_path):
    log = EventLog(tmp_path / "log.sqlite")
    assert log.add("MatchCreated", {"players": ["a"], "instance": 1}, match="m1", server="game-1")
    assert log.add("MatchMoved", {"players": ["a"], "instance": 2, "epoch": 2}, match="m1", server="game-2")
    log.close()
    again = EventLog(tmp_path / "log.sqlite")
    assert again.open_matches() == {"m1": ("game-2", {"players": ["a"], "instance": 2, "epoch": 2})}
    assert again.add("GameFinished", {"results": []}, match="m1", server="game-2")
    assert again.open_matches() == {}
