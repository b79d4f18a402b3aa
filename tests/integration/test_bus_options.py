"""Time to live and deferred delivery, from Python through a real hub and its mailbox, on each transport."""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.bus_tools import DEADLINE_S, Client, Host, HubProcess, node, transport, until  # noqa: F401

pytestmark = pytest.mark.usefixtures("transport")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    hub = HubProcess(tmp_path, "mailbox.durability=process-crash").start()
    yield hub
    hub.close()


async def test_what_is_over_its_time_is_not_shown_at_login(hub: HubProcess) -> None:
    async with node(hub, "game") as game, node(hub, "ops") as ops:
        host, alice = Host(game), Client()
        await host.attach("alice", Client())
        await game.leave_player("alice")
        short = await asyncio.wait_for(ops.unicast("alice", "short", ttl_s=0.2), DEADLINE_S)
        long = await asyncio.wait_for(ops.unicast("alice", "long", ttl_s=600), DEADLINE_S)
        assert long.outcome == "stored"
        assert short.outcome in ("stored", "expired")
        await asyncio.sleep(0.3)
        await host.attach("alice", alice)
        await until(lambda: alice.handled)
        assert (await asyncio.wait_for(ops.unicast("alice", "live", ttl_s=600), DEADLINE_S)).acked
        assert [payload for _, payload in alice.handled] == [b"long", b"live"]


async def test_a_deferred_message_arrives_at_its_time_and_not_before(hub: HubProcess) -> None:
    async with node(hub, "game") as game, node(hub, "ops") as ops:
        host, alice = Host(game), Client()
        await host.attach("alice", alice)
        at = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=3)
        receipt = await asyncio.wait_for(ops.unicast("alice", "later", deliver_at=at), DEADLINE_S)
        assert receipt.outcome == "stored"
        assert (await asyncio.wait_for(ops.unicast("alice", "now"), DEADLINE_S)).outcome == "delivered"
        handled = [payload for _, payload in alice.handled]
        assert handled == [b"now"] or time.time() >= at.timestamp(), "too early"
        await until(lambda: len(alice.handled) == 2)
        assert time.time() >= at.timestamp()
        assert sorted(payload for _, payload in alice.handled) == [b"later", b"now"]
