"""What a process counts, for Prometheus: `GET /metrics` on an address of its own.

    async with serve_metrics(process, collect):     # collect: () -> Iterable[Metric]
        ...

Names, labels and units: docs/metrics.md; a test compares it with what the services say. Labels are few and
bounded by the code: kinds, outcomes, reasons. The one exception, queues by node, names the longest and sums
the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import GC_COLLECTOR, PROCESS_COLLECTOR, CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from zmqgame_bus.errors import binding
from zmqgame_bus.ports import split
from zmqgame_bus.tables import MetricsConfig

if TYPE_CHECKING:
    from zmqgame_bus.events import Emitter
    from zmqgame_bus.node import Node
    from zmqgame_bus.process import Process

__all__ = [
    "Metric",
    "counter",
    "emitter_metrics",
    "gauge",
    "histogram",
    "node_metrics",
    "serve_metrics",
]

COLLECT_S: Final = 5.0
"""A loop that does not answer a scrape in this time is stuck; Prometheus gives up after ten by default."""

Collect = Callable[[], Iterable[Metric]]


def counter(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """A counter with one label, or none if ``label`` is empty: then the only value has the key ""."""
    family = CounterMetricFamily(name, text, labels=[label] if label else [])
    for key, value in values.items():
        family.add_metric([key] if label else [], value)
    return family


def gauge(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """A gauge; as `counter`."""
    family = GaugeMetricFamily(name, text, labels=[label] if label else [])
    for key, value in values.items():
        family.add_metric([key] if label else [], value)
    return family


def histogram(
    name: str,
    text: str,
    label: str,
    bounds_s: Sequence[float],
    values: Mapping[str, tuple[Sequence[int], float]],
) -> Metric:
    """A histogram; the values are (count by bucket, sum in seconds)."""
    family = HistogramMetricFamily(name, text, labels=[label] if label else [])
    for key, (counts, sum_s) in values.items():
        total, buckets = 0, []
        for bound, count in zip([*(f"{bound:g}" for bound in bounds_s), "+Inf"], counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        family.add_metric([key] if label else [], buckets, sum_s)
    return family


def node_metrics(node: Node) -> Iterable[Metric]:
    """What a node on the bus has counted."""
    yield gauge("zmqgame_node_up", "Whether the hub is there (1) or away (0).", "", {"": float(node.up)})
    yield counter("zmqgame_node_events", "What the node has counted, by what.", "event", node.counters)


def emitter_metrics(emitter: Emitter) -> Iterable[Metric]:
    """What became of a process's events."""
    counts = emitter.counters
    kept = {state: counts[state] for state in ("accepted", "refused", "published")}
    yield counter("zmqgame_events", "Events of this process, by what became of them.", "state", kept)
    yield gauge(
        "zmqgame_events_unconfirmed", "Events that stats has not confirmed.", "", {"": emitter.unconfirmed()}
    )
    yield gauge(
        "zmqgame_events_spool_bytes", "Bytes of events on disk.", "", {"": float(counts["spool_bytes"])}
    )


class _InLoop(Collector):
    """Collects in the process's event loop, where its state belongs to."""

    def __init__(self, loop: asyncio.AbstractEventLoop, collect: Collect) -> None:
        self._loop, self._collect = loop, collect

    def collect(self) -> Iterable[Metric]:
        yield gauge(
            "zmqgame_build_info", "The version, as a label.", "version", {version("zmqgame-bus"): 1.0}
        )
        yield from asyncio.run_coroutine_threadsafe(self._all(), self._loop).result(COLLECT_S)

    async def _all(self) -> list[Metric]:
        return list(self._collect())

    def describe(self) -> Iterable[Metric]:
        return []


@asynccontextmanager
async def serve_metrics(process: Process, collect: Collect) -> AsyncIterator[str]:
    """Answer scrapes while the body runs; the address, or "" when that is switched off."""
    listen = process.config.table(MetricsConfig).listen
    if listen == "off":
        yield ""
        return
    registry = CollectorRegistry(auto_describe=False)
    for usual in (PROCESS_COLLECTOR, GC_COLLECTOR):
        registry.register(usual)
    registry.register(_InLoop(asyncio.get_running_loop(), collect))
    host, port = split(listen)
    with binding(f"http://{listen}", key="metrics.listen"):
        server, thread = start_http_server(port or 0, host.strip("[]"), registry)
    try:
        yield f"http://{host}:{server.server_port}/metrics"
    finally:
        with contextlib.suppress(OSError):
            await asyncio.to_thread(_end, server, thread)


def _end(server: Any, thread: Any) -> None:
    server.shutdown()
    server.server_close()
    thread.join(1.0)
