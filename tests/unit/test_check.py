"""`check` judges what the hub counts: who is slow is named, and nobody else."""

from typing import Any

from zmqgame.cli.check import Level, judge

LIMITS = {"slow": (1.0, 10.0), "mailbox": (10.0, 20.0), "refused": (1.0, 2.0)}


def snapshot(slow: list[str], busy: list[str]) -> dict[str, Any]:
    nodes = [{"name": name, "bytes": 9, "players": 0, "slow": False} for name in busy]
    nodes += [{"name": name, "bytes": 5, "players": 1, "slow": True} for name in slow]
    return {
        "status": {"process": {}, "store": {"failure": ""}, "hold": False},
        "queues": {"nodes": nodes, "slow_nodes": len(slow)},
    }


def test_only_slow_nodes_are_named() -> None:
    slow, *_ = judge(snapshot(["game-7"], ["game-1", "game-2"]), LIMITS)
    assert (slow.text, slow.level) == ("1 slow nodes (game-7)", Level.WARNING)


def test_of_many_slow_nodes_three_are_named() -> None:
    slow, *_ = judge(snapshot([f"game-{number}" for number in range(12)], []), LIMITS)
    assert (slow.text, slow.level) == ("12 slow nodes (game-0, game-1, game-2, ...)", Level.CRITICAL)


def test_nobody_is_named_where_nobody_is_slow() -> None:
    slow, *_ = judge(snapshot([], ["game-1"]), LIMITS)
    assert (slow.text, slow.level) == ("0 slow nodes", Level.OK)
