"""The hub's snapshot (`Hub.metrics`) as metrics, and what its process adds to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from zmqgame_bus.buckets import Buckets
from zmqgame_bus.linklog import refused
from zmqgame_bus.metrics import Metric, counter, gauge, histogram

__all__ = ["hub_metrics"]


def hub_metrics(
    snapshot: Mapping[str, Any],
    counters: Mapping[str, int],
    store: Buckets,
    trouble: str,
    sizes: Mapping[str, int],
) -> Iterable[Metric]:
    """All of the hub's metrics."""
    status = snapshot["status"]
    yield from _messages(snapshot)
    bounds_s = [bound / 1e6 for bound in snapshot["bounds_us"]]
    latency = {name: (each["counts"], each["sum_us"] / 1e6) for name, each in snapshot["latency"].items()}
    yield histogram(
        "zmqgame_hub_receipt_seconds",
        "From the arrival of a send at the hub to its receipt, by outcome; report: of a group send.",
        "outcome",
        bounds_s,
        latency,
    )
    yield from _queues(snapshot["queues"])
    yield from _state(status)
    yield from _store(status["store"], store, trouble)
    yield counter(
        "zmqgame_hub_connections_refused",
        "Connections that were refused or cut, by reason, before hello or after.",
        "reason",
        refused(counters),
    )
    if sizes:
        waiting = {name: float(sizes[name]) for name in ("messages", "deferred")}
        yield gauge("zmqgame_hub_mailbox", "Messages in the mailbox.", "what", waiting)
        yield gauge("zmqgame_hub_mailbox_bytes", "Their bytes.", "", {"": float(sizes["bytes"])})
    own = {name: float(count) for name, count in status["counters"].items()}
    yield counter("zmqgame_hub_events", "What else the hub has counted, by what.", "event", own)
    lost = {"hop": snapshot["trace"]["hops_lost"], "sum": snapshot["trace"]["sums_lost"]}
    yield counter("zmqgame_hub_trace_lost", "Records of messages' ways that found no room.", "kind", lost)


def _messages(snapshot: Mapping[str, Any]) -> Iterable[Metric]:
    from prometheus_client.core import CounterMetricFamily

    count = CounterMetricFamily(
        "zmqgame_hub_messages", "Messages of the bus, by direction and kind.", labels=["direction", "kind"]
    )
    size = CounterMetricFamily(
        "zmqgame_hub_message_bytes", "Their bytes, headers included.", labels=["direction", "kind"]
    )
    for direction, kinds in snapshot["messages"].items():
        for kind, each in kinds.items():
            count.add_metric([direction, kind], each["messages"])
            size.add_metric([direction, kind], each["bytes"])
    yield count
    yield size
    outcomes = {name: count for name, count in snapshot["outcomes"].items() if name != "report"}
    yield counter("zmqgame_hub_outcomes", "Outcomes told to senders, one a recipient.", "outcome", outcomes)


def _queues(queues: Mapping[str, Any]) -> Iterable[Metric]:
    waiting = {node["name"]: float(node["bytes"]) for node in queues["nodes"]}
    if queues["other_bytes"]:
        waiting["(others)"] = float(queues["other_bytes"])
    yield gauge(
        "zmqgame_hub_queued_bytes",
        "Bytes that wait for a node's link; the 20 longest by name, the rest as (others).",
        "node",
        waiting,
    )
    yield gauge(
        "zmqgame_hub_slow_nodes",
        "Nodes that do not read as fast as they are written to.",
        "",
        {"": queues["slow_nodes"]},
    )


def _state(status: Mapping[str, Any]) -> Iterable[Metric]:
    yield gauge(
        "zmqgame_hub_epoch", "The hub's epoch: it grows at each start.", "", {"": status["hub_epoch"]}
    )
    yield gauge("zmqgame_hub_uptime_seconds", "Since its start.", "", {"": status["uptime_ms"] / 1000})
    yield gauge(
        "zmqgame_hub_hold", "1 while nodes are waited for after a start.", "", {"": float(status["hold"])}
    )
    yield gauge("zmqgame_hub_links", "Connections.", "", {"": status["links"]})
    yield gauge("zmqgame_hub_nodes", "Nodes with a link.", "", {"": status["nodes_linked"]})
    players = {"known": status["players"], "online": status["players_online"]}
    yield gauge("zmqgame_hub_players", "Players in the hub's memory, and those hosted.", "state", players)
    yield gauge("zmqgame_hub_groups", "Groups.", "", {"": status["groups"]})


def _store(store: Mapping[str, Any], latency: Buckets, trouble: str) -> Iterable[Metric]:
    yield gauge("zmqgame_hub_store_up", "1: the last batch was committed.", "", {"": float(not trouble)})
    backlog = {"operations": store["backlog_ops"]}
    yield gauge("zmqgame_hub_store_backlog", "Operations that wait for the mailbox.", "of", backlog)
    yield gauge(
        "zmqgame_hub_store_backlog_bytes", "Payload in them.", "", {"": float(store["backlog_bytes"])}
    )
    yield histogram(
        "zmqgame_hub_store_batch_seconds",
        "How long a batch took in the mailbox, its commit included.",
        "",
        Buckets.BOUNDS_S,
        {"": (latency.counts, latency.sum_s)},
    )
