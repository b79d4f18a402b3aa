"""`latest` and `droppable` from Python through a hub, on each transport: sent or dropped, not in the way."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from zmqgame_bus.messages import Receipt, Report
from zmqgame_bus.node import Node

from tests.bus_tools import DEADLINE_S, Client, Host, HubProcess, node, transport, until  # noqa: F401

pytestmark = pytest.mark.usefixtures("transport")
POLICY_SEQ = 1 << 63


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    hub = HubProcess(tmp_path, "mailbox.durability=process-crash").start()
    yield hub
    hub.close()


async def unicast(sender: Node, player: str, payload: str, **options: object) -> Receipt:
    return await asyncio.wait_for(sender.unicast(player, payload, **options), DEADLINE_S)


async def live(sender: Node, *players: str) -> None:
    """Wait until what the mailbox had for them is read: from then on others than must-deliver go out."""
    for player in players:
        while (await sender.unicast(player, "are you there?")).outcome != "delivered":
            pass


def ended(receipt: Receipt) -> tuple[str, str]:
    return receipt.outcome, receipt.detail


@pytest.mark.parametrize("policy", ["latest", "droppable"])
async def test_sent_to_who_is_online_without_ack_and_without_cursor(hub: HubProcess, policy: str) -> None:
    async with node(hub, "game") as game, node(hub, "ops") as ops:
        host, alice = Host(game), Client()
        await host.attach("alice", alice)
        assert ended(await unicast(ops, "alice", "firm 1")) == ("delivered", "")
        cursor = dict(alice.cursor)
        receipts = [await unicast(ops, "alice", f"{number}", policy=policy) for number in range(20)]
        assert {ended(receipt) for receipt in receipts} == {("sent", "")}
        assert not any(receipt.acked for receipt in receipts)
        await until(lambda: len(alice.loose) == 20)
        assert [payload for _, payload in alice.loose] == [str(number).encode() for number in range(20)]
        assert [id.seq & POLICY_SEQ for id, _ in alice.loose] == [POLICY_SEQ] * 20
        assert [id for id, _ in alice.loose] == [receipt.id for receipt in receipts]
        # Who notes them as handled, as everything else, has moved nothing: the next ones come.
        assert alice.cursor == cursor
        assert ended(await unicast(ops, "alice", "firm 2")) == ("delivered", "")
        assert [payload for _, payload in alice.handled] == [b"firm 1", b"firm 2"]
        # A cursor that a careless client has brought along holds nothing back either.
        careless = Client()
        careless.cursor = {id.node_key: id for id, _ in alice.loose}
        await game.leave_player("alice")
        assert ended(await unicast(ops, "alice", "firm 3")) == ("stored", "")
        host.clients["alice"] = careless
        shown: list[bytes] = []
        host.delivered = lambda deliveries: shown.extend(each.payload for each in deliveries)
        await game.attach("alice", cursor=careless.cursor.values())
        await until(lambda: shown == [b"firm 3"])


async def test_dropped_with_the_reason(hub: HubProcess) -> None:
    async with node(hub, "game") as game, node(hub, "ops") as ops:
        outcome, detail = ended(await unicast(ops, "nobody", "x", policy="droppable"))
        assert outcome == "dropped"
        assert "online" in detail
        first = asyncio.create_task(unicast(ops, "nobody", "x", policy="latest", key="k"))
        await asyncio.sleep(0)
        second = asyncio.create_task(unicast(ops, "nobody", "y", policy="latest", key="k", ttl_s=3))
        outcome, detail = ended(await asyncio.wait_for(first, DEADLINE_S))
        assert outcome == "dropped"
        assert "newer" in detail
        assert ended(await asyncio.wait_for(second, DEADLINE_S))[0] == "expired"
        host, alice = Host(game, ack=False), Client()
        await host.attach("alice", alice)
        # More than may be unacked: something waits ahead.
        firm = [asyncio.create_task(unicast(ops, "alice", f"{number}")) for number in range(80)]
        await until(lambda: len(host.waiting) == 64)
        outcome, detail = ended(await unicast(ops, "alice", "x", policy="droppable"))
        assert outcome == "dropped"
        assert "slow" in detail
        host.ack = True
        host.delivered(host.waiting)
        await asyncio.wait_for(asyncio.gather(*firm), DEADLINE_S)
        assert ended(await unicast(ops, "alice", "y", policy="droppable")) == ("sent", "")
        assert [payload for _, payload in alice.handled] == [str(number).encode() for number in range(80)]
        hub.kill()
        await until(lambda: not ops.up)
        assert ended(await unicast(ops, "alice", "z", policy="droppable")) == (
            "dropped",
            "no link to the hub",
        )
        assert ended(await unicast(ops, "alice", "z", policy="latest")) == ("dropped", "no link to the hub")
        assert ended(await asyncio.wait_for(ops_many(ops), DEADLINE_S)) == ("dropped", "no link to the hub")


async def ops_many(ops: Node) -> Receipt:
    return (await ops.unicast_many([("alice", "z")], policy="droppable"))[0]


async def test_the_latest_of_a_key_replaces_what_waits(hub: HubProcess) -> None:
    async with node(hub, "game") as game, node(hub, "ops") as ops:
        host, alice = Host(game, ack=False), Client()
        await host.attach("alice", alice)
        firm = [asyncio.create_task(unicast(ops, "alice", f"{number}")) for number in range(80)]
        await until(lambda: len(host.waiting) == 64)
        sending = [
            asyncio.create_task(unicast(ops, "alice", text, policy="latest", key=key))
            for text, key in [("hp 1", "hp"), ("pos 1", "pos"), ("hp 2", "hp"), ("hp 3", "hp")]
        ]
        replaced = await asyncio.wait_for(asyncio.gather(sending[0], sending[2]), DEADLINE_S)
        assert {receipt.outcome for receipt in replaced} == {"dropped"}
        assert all("newer" in receipt.detail or "replaced" in receipt.detail for receipt in replaced)
        assert not sending[1].done()
        assert not sending[3].done()
        host.ack = True
        host.delivered(host.waiting)
        went = await asyncio.wait_for(asyncio.gather(sending[1], sending[3]), DEADLINE_S)
        assert {ended(receipt) for receipt in went} == {("sent", "")}
        await asyncio.wait_for(asyncio.gather(*firm), DEADLINE_S)
        await until(lambda: len(alice.loose) == 2)
        assert sorted(payload for _, payload in alice.loose) == [b"hp 3", b"pos 1"]
        assert len(alice.handled) == 80


async def test_groups_and_broadcasts_are_counted_and_not_named(hub: HubProcess) -> None:
    async with node(hub, "game") as game, node(hub, "ops") as ops:
        host, alice, bob, cid = Host(game), Client(), Client(), Client()
        for player, client in (("alice", alice), ("bob", bob), ("cid", cid)):
            await host.attach(player, client)
            await ops.join("crew", player, durable=True)
        await live(ops, "alice", "bob", "cid")
        cursor = dict(alice.cursor)
        assert await game.leave_player("cid")
        for policy in ("latest", "droppable"):
            report = await asyncio.wait_for(ops.multicast("crew", f"g {policy}", policy=policy), DEADLINE_S)
            check(report, {"sent": 2, "dropped": 1}, 3)
            report = await asyncio.wait_for(ops.broadcast(f"b {policy}", policy=policy), DEADLINE_S)
            check(report, {"sent": 2}, 2)
        expected = [b"g latest", b"b latest", b"g droppable", b"b droppable"]
        await until(lambda: len(alice.loose) == len(bob.loose) == 4)
        assert [payload for _, payload in alice.loose] == [payload for _, payload in bob.loose] == expected
        assert alice.cursor == cursor
        empty = await asyncio.wait_for(ops.multicast("nobody's", "x", policy="droppable"), DEADLINE_S)
        check(empty, {}, 0)


def check(report: Report, counts: dict[str, int], omitted: int) -> None:
    assert report.outcome == "done"
    assert {name: count for name, count in report.counts.items() if count} == counts
    assert (dict(report.recipients), report.omitted) == ({}, omitted)


async def test_posted_without_anybody_to_tell_there_is_no_receipt(hub: HubProcess) -> None:
    async with node(hub, "game") as game, node(hub, "ops") as ops:
        host, alice = Host(game), Client()
        await host.attach("alice", alice)
        await live(ops, "alice")
        told: list[Receipt] = []
        ids = [ops.post("alice", str(number), policy="droppable") for number in range(50)]
        last = ops.post("alice", "last", policy="latest", key="k", on_receipt=told.append)
        assert ops.counters["unreceipted"] == 0
        await until(lambda: told and len(alice.loose) == 51)
        assert [id for id, _ in alice.loose] == [*ids, last]
        assert [(receipt.id, receipt.outcome) for receipt in told] == [(last, "sent")]
        assert ops.counters["receipts"] == 2
        assert sum(ops.posted.values()) == 0


async def test_what_must_be_delivered_is_never_held_back(hub: HubProcess) -> None:
    async with node(hub, "game") as game, node(hub, "ops") as ops:
        host, alice = Host(game), Client()
        await host.attach("alice", alice)
        await live(ops, "alice")
        alice.handled.clear()
        outcomes: dict[str, int] = {}

        def count(receipt: Receipt) -> None:
            outcomes[receipt.outcome] = outcomes.get(receipt.outcome, 0) + 1

        firm = []
        for number in range(200):
            for part in range(20):
                ops.post("alice", f"{number} {part} " + "x" * 200, policy="droppable", on_receipt=count)
            firm.append(asyncio.create_task(unicast(ops, "alice", f"{number}")))
            if number % 20 == 0:
                await asyncio.sleep(0)
        receipts = await asyncio.wait_for(asyncio.gather(*firm), DEADLINE_S)
        assert {receipt.outcome for receipt in receipts} <= {"delivered", "stored"}
        await until(lambda: len(alice.handled) == 200)
        assert [payload for _, payload in alice.handled] == [str(number).encode() for number in range(200)]
        await until(lambda: sum(outcomes.values()) == 4_000, "each has its receipt")
        assert set(outcomes) <= {"sent", "dropped"}
        await until(lambda: len(alice.loose) == outcomes["sent"])
        assert [id for id, _ in alice.loose] == sorted(id for id, _ in alice.loose)


async def test_an_own_address_gets_them_too(hub: HubProcess) -> None:
    async with node(hub, "desk") as desk, node(hub, "ops") as ops:
        await desk.host("desk-1")
        got: list[tuple[bytes, bool]] = []

        async def read() -> None:
            async for message in desk:
                if message.text != "are you there?":
                    got.append((message.payload, message.id.seq >= POLICY_SEQ))

        reading = asyncio.create_task(read())
        await live(ops, "desk-1")
        assert ended(await unicast(ops, "desk-1", "a", policy="droppable")) == ("sent", "")
        assert ended(await unicast(ops, "desk-1", "b")) == ("delivered", "")
        assert ended(await unicast(ops, "desk-1", "c", policy="latest")) == ("sent", "")
        await until(lambda: len(got) == 3)
        assert got == [(b"a", True), (b"b", False), (b"c", True)]
        reading.cancel()
