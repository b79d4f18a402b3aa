"""Every service answers a scrape, and its numbers are what happened."""

import asyncio
import json
import re
import socket
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from zmqgame_bus.node import Node

from tests.cluster import cluster, until

ROOT = Path(__file__).resolve().parents[2]


def fetch(address):
    with urllib.request.urlopen(address, timeout=60) as answer:
        return answer.read().decode()


async def text_of(running):
    """What a process answers. The hub is ready before its metrics are: its log names their address."""

    def found():
        lines = map(json.loads, running.log.read_text().splitlines())
        return next((line["metrics"] for line in lines if "metrics" in line), "")

    address = running.addresses.get("metrics") or await until(found, "the address of the metrics")
    return await asyncio.to_thread(fetch, address)


async def scrape(running):
    """All samples of a process: by name and labels."""
    text = await text_of(running)
    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples[sample.name, *sorted(sample.labels.items())] = sample.value
    return samples


async def families(running):
    """The names of ours, as docs/metrics.md has them; also of those that have counted nothing yet."""
    text = await text_of(running)
    found = re.findall(r"^# TYPE (zmqgame_\w+) (?:counter|gauge|histogram)$", text, flags=re.MULTILINE)
    return set(found)


async def test_the_hub_counts_messages_outcomes_and_latencies(tmp_path):
    async with cluster(tmp_path) as running:
        hub = running.running["hub"]
        async with Node("billing", running.hub_endpoint, state_dir=tmp_path / "billing") as node:
            await node.host("desk")
            reading = asyncio.create_task(anext(aiter(node)))
            await until(lambda: node.up, "the node is up")
            receipt = asyncio.create_task(node.unicast("desk", "hello"))
            await reading
            await node.leave_player("desk")  # not handled: it goes to the mailbox
            assert (await receipt).outcome == "stored"
            assert (await node.unicast("nobody", "hello")).outcome == "refused"
        samples = await scrape(hub)
        assert samples["zmqgame_hub_messages_total", ("direction", "in"), ("kind", "send")] == 2
        assert samples["zmqgame_hub_message_bytes_total", ("direction", "in"), ("kind", "send")] > 80
        assert samples["zmqgame_hub_outcomes_total", ("outcome", "stored")] == 1
        assert samples["zmqgame_hub_outcomes_total", ("outcome", "refused")] == 1
        assert samples["zmqgame_hub_receipt_seconds_count", ("outcome", "stored")] == 1
        assert samples["zmqgame_hub_receipt_seconds_bucket", ("le", "+Inf"), ("outcome", "refused")] == 1
        assert samples["zmqgame_hub_store_up",] == 1
        while not samples["zmqgame_hub_store_batch_seconds_count",]:  # told when the store's thread looks up
            await asyncio.sleep(0.05)
            samples = await scrape(hub)


async def test_strangers_are_counted_and_shown_in_the_status(tmp_path):
    async with cluster(tmp_path) as running:
        host, port = running.hub_endpoint.removeprefix("tcp://").split(":")
        with socket.create_connection((host, int(port))) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
            await asyncio.to_thread(stranger.recv, 1_000)
        async with Node("asker", running.hub_endpoint, state_dir=tmp_path / "asker") as node:

            async def shown():
                status = await node.query("status")
                return sum(status["process"].get("refused", {}).values()) == 1

            await until(shown, "the status names the connection that was refused")
        samples = await scrape(running.running["hub"])
        refused = [
            value for name, value in samples.items() if name[0] == "zmqgame_hub_connections_refused_total"
        ]
        assert sum(refused) == 1


async def test_names_are_those_of_the_documentation(tmp_path):
    async with cluster(tmp_path, "game-1") as running:
        stats = await running.start("stats", **{"stats.listen": f"ipc://{tmp_path}/events"})
        found = set()
        for process in (running.running["hub"], running.running["manager"], running.running["game-1"], stats):
            found |= await families(process)
    text = (ROOT / "docs" / "metrics.md").read_text()
    documented = set(re.findall(r"^\| `(zmqgame_[a-z_]+)", text, flags=re.MULTILINE))
    assert found <= documented
    later = {"zmqgame_game_tick_seconds", "zmqgame_game_late_ticks_total"}  # after five seconds
    asked = {"zmqgame_hub_mailbox", "zmqgame_hub_mailbox_bytes"}  # once the mailbox was idle
    assert documented - found <= later | asked


async def test_it_can_be_switched_off(tmp_path):
    async with cluster(tmp_path, **{"metrics.listen": "off"}) as running:
        assert running.running["manager"].addresses["metrics"] == ""
        await until(lambda: '"metrics":""' in (tmp_path / "hub.log").read_text(), "the hub says so")
