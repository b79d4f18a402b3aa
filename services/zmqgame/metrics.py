"""What the services count, for Prometheus (docs/metrics.md)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from zmqgame_bus.metrics import Metric, counter, emitter_metrics, gauge, node_metrics

if TYPE_CHECKING:
    from zmqgame_bus.node import Node

    from zmqgame.manage.manager import Manager
    from zmqgame.play.game import Game
    from zmqgame.stats.service import StatsService

__all__ = ["game_metrics", "manager_metrics", "stats_metrics"]


def game_metrics(game: Game, node: Node) -> Iterable[Metric]:
    """Of a game server."""
    load = game.load()
    yield gauge("zmqgame_game_players", "Players here, those logging in included.", "", {"": load["players"]})
    yield gauge("zmqgame_game_matches", "Matches that run.", "", {"": load["matches"]})
    capacity = {"players": load["capacity"], "matches": load["match_capacity"]}
    yield gauge("zmqgame_game_capacity", "How many fit.", "of", capacity)
    yield gauge("zmqgame_game_draining", "1: it takes nobody any more.", "", {"": float(load["draining"])})
    sessions = {name: float(count) for name, count in game.sessions.counters.items()}
    yield counter("zmqgame_game_sessions", "What sessions have counted, by what.", "event", sessions)
    kept = {name: float(count) for name, count in game.keeper.counters.items()}
    yield counter("zmqgame_game_checkpoints", "Parts of matches for other servers, by what.", "event", kept)
    sockets = {name: float(count) for name, count in game.sessions.edge_counters().items()}
    yield counter("zmqgame_game_sockets", "What clients' sockets have counted.", "event", sockets)
    if game.ticks is not None:
        yield gauge(
            "zmqgame_game_tick_seconds",
            "Time of one tick of all matches in the last five seconds.",
            "quantile",
            {"0.5": game.ticks.p50_us / 1e6, "0.99": game.ticks.p99_us / 1e6, "1": game.ticks.max_us / 1e6},
        )
    if game.clock is not None:
        yield counter("zmqgame_game_ticks", "Ticks done.", "", {"": game.clock.ticks})
        yield counter("zmqgame_game_late_ticks", "Ticks that began late.", "", {"": game.clock.late})
        yield counter("zmqgame_game_skipped_ticks", "Left out after a stall.", "", {"": game.clock.skipped})
    yield from node_metrics(node)
    yield from emitter_metrics(game.emitter)


def manager_metrics(manager: Manager, node: Node) -> Iterable[Metric]:
    """Of the manager."""
    yield gauge("zmqgame_manager_queued_players", "Players who wait.", "", {"": len(manager.queue)})
    yield gauge("zmqgame_manager_matches", "Matches that are open.", "", {"": len(manager.open)})
    yield gauge("zmqgame_manager_servers", "Game servers known.", "", {"": len(manager.servers.by_name)})
    kept = manager.checkpoints
    yield gauge("zmqgame_manager_checkpoints", "Matches that could go on elsewhere.", "", {"": len(kept)})
    yield gauge("zmqgame_manager_checkpoint_bytes", "What is kept of them.", "", {"": kept.bytes})
    refused = {"": float(kept.refused)}
    yield counter("zmqgame_manager_checkpoints_refused", "Matches over a limit.", "", refused)
    yield from node_metrics(node)
    yield from emitter_metrics(manager.emitter)


def stats_metrics(service: StatsService, node: Node) -> Iterable[Metric]:
    """Of stats."""
    yield gauge(
        "zmqgame_stats_lag_seconds", "Age of the oldest event that waits here.", "", {"": service.lag_s()}
    )
    yield gauge("zmqgame_stats_clickhouse_up", "0: a batch fails.", "", {"": float(not service.error)})
    waiting = {"": float(service.collector.waiting_rows)}
    yield gauge("zmqgame_stats_waiting_events", "Events to be inserted.", "", waiting)
    yield gauge(
        "zmqgame_stats_waiting_bytes", "Their bytes.", "", {"": float(service.collector.waiting_bytes)}
    )
    counts = {name: float(count) for name, count in service.collector.counters.items()}
    yield counter("zmqgame_stats_events", "What stats has counted, by what.", "event", counts)
    yield from node_metrics(node)
