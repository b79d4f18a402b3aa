"""Many messages at once, plain functions as handlers, cancelled requests, presence over a pause."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from zmqgame_bus.errors import RequestFailed, WindowFull
from zmqgame_bus.messages import Delivery, MessageId, Receipt, Request, SentRecord
from zmqgame_bus.node import Node

from tests.bus_tools import DEADLINE_S, HubProcess, node, transport, until  # noqa: F401

pytestmark = pytest.mark.usefixtures("transport")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    hub = HubProcess(tmp_path, "mailbox.durability=process-crash", "hub.node_grace_ms=300").start()
    yield hub
    hub.close()


class Crowd:
    """Handles all that comes, a list at a time."""

    def __init__(self, node: Node, *, ack: bool = True) -> None:
        self.node, self.ack = node, ack
        self.handled: dict[str, list[object]] = {}
        self.waiting: list[Delivery] = []
        node.set_player_handler(self)

    def bound(self, player: str, login: int) -> None: ...

    def delivered(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            self.handled.setdefault(delivery.player, []).append(delivery.value)
        if self.ack:
            self.node.handled_many(deliveries)
        else:
            self.waiting += deliveries

    def dropped(self, player: str, why: str) -> None: ...

    def forget(self, player: str, up_to: MessageId) -> None: ...


async def test_many_messages_have_one_call_and_each_its_receipt(hub: HubProcess) -> None:
    told: list[SentRecord] = []
    async with node(hub, "game") as game, node(hub, "ops", on_receipt=told.append) as ops:
        crowd = Crowd(game)
        for name in ("alice", "bob"):
            await game.attach(name)
        messages = [(("alice", "bob")[n % 2], (b"%d" % n, str(n), {"n": n})[n % 3]) for n in range(400)]
        messages[7] = ("nobody", "lost")
        receipts = await asyncio.wait_for(ops.unicast_many(iter(messages)), DEADLINE_S)
        assert len(receipts) == 400
        assert receipts.counts == {"delivered": 399, "refused": 1}
        assert not receipts.acked
        assert (receipts[7].outcome, receipts[7].detail) == ("refused", "unknown player")
        assert str(receipts[-1].id) == f"ops/{ops.epoch}/400"
        assert [receipt.id.seq for receipt in receipts[10:12]] == [11, 12]
        assert all(receipt.latency_ms > 0 for receipt in receipts)
        for name in ("alice", "bob"):
            assert crowd.handled[name] == [payload for player, payload in messages if player == name]
        assert [record.recipient for record in told] == [player for player, _ in messages]
        assert told[7].outcome == "refused"
        assert len(await ops.unicast_many([])) == 0
        with pytest.raises(ValueError, match="name"):
            await ops.unicast_many([("bad\nname", "x")])
        with pytest.raises(IndexError):
            receipts[400]


async def test_many_messages_wait_for_room_in_their_order(hub: HubProcess) -> None:
    async with node(hub, "game") as game, node(hub, "ops") as ops:
        crowd = Crowd(game)
        await game.attach("alice")
        await game.attach("bob")
        count = 1_500
        first = [("alice", b"a%d " % n + bytes(20_000)) for n in range(count)]
        second = [("bob", b"b%d " % n) for n in range(count)]
        results = await asyncio.wait_for(
            asyncio.gather(ops.unicast_many(first), ops.unicast_many(second), ops.unicast("bob", b"last")),
            DEADLINE_S * 2,
        )
        assert results[0].acked
        assert results[1].acked
        assert results[2].acked
        await until(lambda: len(crowd.handled["alice"]) == count)
        await until(lambda: len(crowd.handled["bob"]) == count + 1)
        assert crowd.handled["alice"] == [payload for _, payload in first]
        assert crowd.handled["bob"] == [*(payload for _, payload in second), b"last"]


async def test_many_messages_without_receipts_in_time_are_unknown_and_go_on(hub: HubProcess) -> None:
    async with node(hub, "game") as game, node(hub, "ops") as ops:
        crowd = Crowd(game, ack=False)
        await game.attach("alice")
        receipts = await ops.unicast_many([("alice", "x"), ("alice", "y")], timeout_s=0.3)
        assert receipts.counts == {"unknown": 2}
        assert "may still be delivered" in receipts[0].detail
        assert ops.counters["unreceipted"] == 2
        game.handled_many(crowd.waiting)
        await until(lambda: ops.counters["unreceipted"] == 0)


async def test_posted_messages_are_counted_or_told(hub: HubProcess) -> None:
    async with node(hub, "game") as game, node(hub, "ops") as ops:
        crowd = Crowd(game)
        await game.attach("alice")
        ids = [ops.post("alice", n) for n in map(str, range(200))]
        ids.append(ops.post("nobody", "x"))
        assert [id.seq for id in ids] == list(range(1, 202))
        await until(lambda: ops.posted["unknown"] == 0)
        assert (ops.posted["delivered"], ops.posted["refused"]) == (200, 1)
        assert crowd.handled["alice"] == [str(n) for n in range(200)]
        told: list[Receipt] = []
        id = ops.post("alice", "told", on_receipt=told.append)
        await until(lambda: told)
        assert (told[0].id, told[0].outcome) == (id, "delivered")
        game.set_player_handler(Crowd(game, ack=False))
        flood = (ops.post("alice", bytes(500_000)) for _ in range(2_000))
        with pytest.raises(WindowFull, match="window is full"):
            list(flood)
        await ops.close(0)


async def test_a_plain_function_answers_at_once(hub: HubProcess) -> None:
    def echo(request: Request) -> object:
        if request.text == "fail":
            raise KeyError("no such thing")
        return {"echo": request.text}

    server = Node("server", hub.address)
    server.serve("echo", echo)
    async with server, node(hub, "ops") as ops:
        assert (await ops.request("echo", "hello")).json() == {"echo": "hello"}
        with pytest.raises(RequestFailed, match="no such thing"):
            await ops.request("echo", "fail")
        replies = await asyncio.gather(*(ops.request("echo", str(n)) for n in range(200)))
        assert [reply.json()["echo"] for reply in replies] == [str(n) for n in range(200)]


async def test_a_cancelled_request_cancels_its_handler_and_a_late_answer_is_ignored(hub: HubProcess) -> None:
    began, cancelled, stubborn = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def handler(request: Request) -> object:
        began.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            if request.text == "stubborn":
                stubborn.set()
                return "too late"
            raise
        return ""

    server = Node("server", hub.address)
    server.serve("slow", handler)
    async with server, node(hub, "ops") as ops:
        for text in ("meek", "stubborn"):
            began.clear()
            cancelled.clear()
            asking = asyncio.create_task(ops.request("slow", text, timeout_s=30))
            await asyncio.wait_for(began.wait(), DEADLINE_S)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await asyncio.wait_for(cancelled.wait(), DEADLINE_S)
        await asyncio.wait_for(stubborn.wait(), DEADLINE_S)
        assert (await ops.query("status"))["hub_epoch"] >= 1  # the link is sound
        assert ops.up
        assert ops.counters["violations"] == server.counters["violations"] == 0


async def test_presence_begins_anew_after_a_pause_and_says_who_went_meanwhile(hub: HubProcess) -> None:
    async with node(hub, "game-1") as game, node(hub, "ops") as ops:
        Crowd(game)
        await game.attach("alice")
        events: list[tuple[str, str, bool]] = []

        async def watch() -> None:
            async for event in ops.presence():
                events.append((event.kind, event.name, event.snapshot))

        watching = [asyncio.create_task(watch()), asyncio.create_task(watch())]
        await until(lambda: events.count(("login", "alice", True)) >= 2)
        gone = Node("gone", hub.address)
        await gone.start(DEADLINE_S)
        await gone.host("desk")
        await until(lambda: events.count(("login", "desk", False)) >= 2)
        hub.kill()
        await gone.close(0)
        events.clear()
        hub.start()
        # In the snapshot or behind it: that depends on which node is back first.
        await until(lambda: [event[:2] for event in events].count(("login", "alice")) >= 2)
        await until(lambda: events.count(("logout", "desk", True)) >= 2)
        # The hub waits for it first: it knows from its store that this node was linked.
        await until(lambda: ("node_down", "gone") in [event[:2] for event in events])
        for task in watching:
            task.cancel()
