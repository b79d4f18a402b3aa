"""The bus with real processes and sockets: hub, mailbox and nodes, kills included."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from zmqgame_bus.errors import (
    BusError,
    CannotReachHub,
    DeadlineExceeded,
    NoSuchService,
    Refused,
    RequestFailed,
    RequestUnknown,
)
from zmqgame_bus.messages import MessageId, Receipt, Request
from zmqgame_bus.node import Node

from tests.bus_tools import DEADLINE_S, Client, Host, HubProcess, node, transport, until  # noqa: F401

pytestmark = pytest.mark.usefixtures("transport")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    hub = HubProcess(tmp_path, "mailbox.durability=process-crash", "hub.node_grace_ms=300").start()
    yield hub
    hub.close()


async def committed(asking: Node) -> None:
    """Wait until the mailbox has committed all that the hub has given it."""
    status = await asking.query("status")
    while status["store"]["backlog_ops"] or not status["store"]["opened"]:
        status = await asking.query("status")


async def unicast(sender: Node, player: str, payload: object) -> Receipt:
    return await asyncio.wait_for(sender.unicast(player, payload), DEADLINE_S)


async def test_unicast_to_an_online_player_is_delivered_after_the_ack(hub: HubProcess) -> None:
    async with node(hub, "game-1") as game, node(hub, "ops") as ops:
        host, alice = Host(game, ack=False), Client()
        await host.attach("alice", alice)
        sending = asyncio.create_task(unicast(ops, "alice", {"gift": 100}))
        await until(lambda: host.waiting)
        assert not sending.done()
        delivery = host.waiting[0]
        assert (delivery.player, delivery.value) == ("alice", {"gift": 100})
        game.handled("alice", delivery.id)
        receipt = await sending
        assert receipt.outcome == "delivered"
        assert receipt.id == delivery.id
        assert str(receipt.id) == f"ops/{ops.epoch}/1"


async def test_unknown_player_is_refused(hub: HubProcess) -> None:
    async with node(hub, "ops") as ops:
        receipt = await unicast(ops, "nobody", "hello")
        assert receipt.outcome == "refused"
        assert "unknown player" in receipt.detail


async def test_offline_messages_are_stored_and_come_in_order_at_login(hub: HubProcess) -> None:
    async with node(hub, "game-1") as game, node(hub, "ops") as ops:
        host, first, second = Host(game), Client(), Client()
        await host.attach("alice", first)
        await game.leave_player("alice")
        receipts = await asyncio.gather(*(unicast(ops, "alice", str(number)) for number in range(200)))
        assert {receipt.outcome for receipt in receipts} == {"stored"}
        await host.attach("alice", second)
        await until(lambda: len(second.handled) == 200)
        assert [payload for _, payload in second.handled] == [str(number).encode() for number in range(200)]
        assert (await unicast(ops, "alice", "live")).outcome == "delivered"
        await game.leave_player("alice")
        third = Client()
        await host.attach("alice", third)
        assert (await unicast(ops, "alice", "again")).outcome == "delivered"
        assert [payload for _, payload in third.handled] == [b"again"]


async def test_multicast_reports_each_member(hub: HubProcess) -> None:
    async with node(hub, "game-1") as one, node(hub, "game-2") as two, node(hub, "ops") as ops:
        hosts, clients = (Host(one), Host(two)), [Client() for _ in range(4)]
        for number, client in enumerate(clients):
            await hosts[number % 2].attach(f"p{number}", client)
            await hosts[number % 2].node.join("team", f"p{number}", durable=True)
        await one.leave_player("p0")
        report = await asyncio.wait_for(ops.multicast("team", "raid"), DEADLINE_S)
        assert (report.outcome, report.delivered, report.stored) == ("done", 3, 1)
        assert report.recipients["p0"][0] == "stored"
        assert [payload for _, payload in clients[3].handled] == [b"raid"]


async def test_multicast_to_an_unknown_group_says_so(hub: HubProcess) -> None:
    async with node(hub, "ops") as ops:
        report = await asyncio.wait_for(ops.multicast("nothing", "x"), DEADLINE_S)
        assert report.delivered == report.stored == 0
        assert report.outcome == "refused" or sum(report.counts.values()) == 0


async def test_broadcast_goes_to_players_or_to_nodes(hub: HubProcess) -> None:
    async with node(hub, "game-1", host_self=True) as game, node(hub, "ops") as ops:
        host, clients = Host(game), [Client() for _ in range(3)]
        for number, client in enumerate(clients):
            await host.attach(f"p{number}", client)
        report = await asyncio.wait_for(ops.broadcast("hello all"), DEADLINE_S)
        assert report.delivered == 3
        assert all(client.handled for client in clients)
        sending = asyncio.create_task(ops.broadcast("hello nodes", scope="nodes"))
        async for message in game:
            assert (message.address, message.text) == ("node:game-1", "hello nodes")
            break
        game.handled(message.address, message.id)
        assert (await asyncio.wait_for(sending, DEADLINE_S)).delivered == 1


async def test_a_hosted_address_is_acked_when_the_body_returns(hub: HubProcess) -> None:
    async with node(hub, "desk") as desk, node(hub, "ops") as ops:
        await desk.host("billing")
        sending = [asyncio.create_task(unicast(ops, "billing", number)) for number in ([1], [2])]
        async for message in desk:
            if message.json() == [1]:
                assert not sending[0].done()
            else:
                await until(sending[0].done)
                assert not sending[1].done()
                break
        seen = []
        async for message in desk:  # the body that broke out had not returned: it comes again
            seen.append(message.json())
            break
        assert seen == [[2]]


async def test_requests_reply_fail_and_end(hub: HubProcess) -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def handler(request: Request) -> object:
        if request.value == "fail":
            raise KeyError("no such thing")
        if request.value == "sleep":
            began.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.set()
                raise
        return {"echo": request.value, "from": request.sender}

    server = Node("server", hub.address)
    server.serve("echo", handler)
    async with server, node(hub, "ops") as ops:
        reply = await ops.request("echo", "hello")
        assert reply.json() == {"echo": "hello", "from": "ops"}
        with pytest.raises(RequestFailed, match="no such thing"):
            await ops.request("echo", "fail")
        with pytest.raises(NoSuchService):
            await ops.request("nothing", "hello")
        for timeout_s in (0.3, 3.0, 30.0):  # on a slow machine it may be over before the handler begins
            with pytest.raises(DeadlineExceeded):
                await ops.request("echo", "sleep", timeout_s=timeout_s)
            if began.is_set():
                break
        await asyncio.wait_for(cancelled.wait(), DEADLINE_S)
        began.clear()
        waiting = asyncio.create_task(ops.request("echo", "sleep", timeout_s=120))
        await asyncio.wait_for(began.wait(), DEADLINE_S)
        hub.kill()
        with pytest.raises(RequestUnknown):
            await waiting
        hub.start()
        assert (await ops.request("echo", "back", timeout_s=DEADLINE_S)).json()["echo"] == "back"


async def test_presence_shows_who_is_there_and_who_comes(hub: HubProcess) -> None:
    async with node(hub, "game-1") as game, node(hub, "ops") as ops:
        host = Host(game)
        await host.attach("alice", Client())
        seen = set()

        async def watch() -> None:
            async for event in ops.presence():
                seen.add((event.kind, event.name))

        watching = asyncio.create_task(watch())
        await until(lambda: ("login", "alice") in seen)
        assert ("node_up", "game-1") in seen
        await host.attach("bob", Client())
        await game.leave_player("alice")
        await until(lambda: {("login", "bob"), ("logout", "alice")} <= seen)
        async with node(hub, "late"):
            await until(lambda: ("node_up", "late") in seen)
        await until(lambda: ("node_down", "late") in seen)
        watching.cancel()


async def test_hub_answers_queries_as_json(hub: HubProcess) -> None:
    async with node(hub, "game-1") as game:
        await game.host("desk")
        assert isinstance(await game.query("status"), dict)
        assert "game-1" in str(await game.query("nodes"))
        assert "desk" in str(await game.query("players"))


async def test_hub_killed_under_load_loses_doubles_and_reorders_nothing(hub: HubProcess) -> None:
    async with node(hub, "game-1") as game, node(hub, "ops") as ops, node(hub, "ops-2") as other:
        host, online, offline = Host(game), Client(), Client()
        await host.attach("on", online)
        await host.attach("off", Client())
        await game.leave_player("off")
        receipts: list[Receipt] = []

        async def send(sender: Node, player: str) -> None:
            for number in range(300):
                receipts.append(await unicast(sender, player, f"{sender.name} {number}"))

        sending = [asyncio.create_task(send(*pair)) for pair in ((ops, "on"), (other, "on"), (ops, "off"))]
        for _ in range(3):
            count = len(receipts)
            await until(lambda count=count: len(receipts) > count + 60)
            hub.kill()
            hub.start()
        await asyncio.wait_for(asyncio.gather(*sending), DEADLINE_S * 2)
        assert {receipt.outcome for receipt in receipts} <= {"delivered", "stored"}
        await host.attach("off", offline)
        await until(lambda: len(offline.handled) >= 300)
        await until(lambda: len(online.handled) >= 600)
        for client, senders in ((online, (ops, other)), (offline, (ops,))):
            for sender in senders:
                mine = [text for id, text in client.handled if id.node_key == sender.key]
                assert mine == [f"{sender.name} {number}".encode() for number in range(300)]


HOST_SCRIPT = """
import asyncio, sys
from zmqgame_bus.node import Node
async def main():
    node = Node(sys.argv[2], sys.argv[1])
    class Handler:
        def bound(self, player, login): print("bound", player, flush=True)
        def delivered(self, deliveries):
            for delivery in deliveries: print("got", delivery.text, flush=True)
        def dropped(self, player, why): print("dropped", player, flush=True)
        def forget(self, player, up_to): pass
    node.set_player_handler(Handler())
    await node.start()
    await node.attach(sys.argv[3])
    await asyncio.sleep(600)
asyncio.run(main())
"""


def host_process(hub: HubProcess, name: str, player: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", textwrap.dedent(HOST_SCRIPT), hub.address, name, player]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


async def test_node_killed_before_the_ack_leaves_its_messages_to_the_next_host(hub: HubProcess) -> None:
    process = host_process(hub, "game-1", "alice")
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "bound alice\n"
        async with node(hub, "ops") as ops, node(hub, "game-2") as game:
            sending = [asyncio.create_task(unicast(ops, "alice", text)) for text in ("one", "two")]
            assert await asyncio.to_thread(process.stdout.readline) == "got one\n"
            process.kill()
            process.wait()
            outcomes = [(await receipt).outcome for receipt in sending]
            assert outcomes == ["stored", "stored"]
            host, alice = Host(game), Client()
            await host.attach("alice", alice)
            await until(lambda: len(alice.handled) == 2)
            assert [text for _, text in alice.handled] == [b"one", b"two"]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def test_a_newer_login_takes_the_player_and_the_cursor_drops_repeats(hub: HubProcess) -> None:
    async with node(hub, "game-1") as one, node(hub, "game-2") as two, node(hub, "ops") as ops:
        old, new, alice = Host(one, ack=False), Host(two), Client()
        await old.attach("alice", alice)
        sending = [asyncio.create_task(unicast(ops, "alice", text)) for text in ("one", "two")]
        await until(lambda: len(old.waiting) == 2)
        alice.handle(old.waiting[0])  # handled by the client, its ack never reached the bus
        await new.attach("alice", alice)
        await until(lambda: old.dropped_players == ["alice"])
        assert [(await receipt).outcome for receipt in sending] == ["delivered", "delivered"]
        assert [text for _, text in alice.handled] == [b"one", b"two"]


async def test_a_session_resumes_in_place(hub: HubProcess) -> None:
    async with node(hub, "game-1") as game, node(hub, "ops") as ops:
        host, alice = Host(game, ack=False), Client()
        await host.attach("alice", alice)
        sending = asyncio.create_task(unicast(ops, "alice", "m"))
        await until(lambda: host.waiting)
        game.detach("alice")
        attached = await game.attach("alice", login=alice.login)
        assert attached.resumed
        assert attached.login == alice.login
        assert [delivery.text for delivery in attached.pending] == ["m"]
        game.handled("alice", attached.pending[0].id)
        assert (await sending).outcome == "delivered"
        assert not (await game.attach("alice", login=alice.login + 1)).resumed


async def test_a_second_node_of_one_name_replaces_and_the_older_epoch_is_refused(
    hub: HubProcess, tmp_path: Path
) -> None:
    folder = tmp_path / "state"
    async with (
        node(hub, "game-1", state_dir=folder) as old,
        node(hub, "game-1", state_dir=folder) as new,
    ):
        assert new.epoch > old.epoch
        with pytest.raises(Refused):
            await asyncio.wait_for(old.unicast("nobody", "x"), DEADLINE_S)
        assert (await unicast(new, "nobody", "x")).outcome == "refused"
        await committed(new)  # a hub that is killed before it has written an epoch can't know it
    stale = Node("game-1", hub.address, repeat=MessageId(old.epoch, old.epoch - 1, 1))
    with pytest.raises(Refused):
        await stale.start(DEADLINE_S)
    hub.kill()
    hub.start()
    stale = Node("game-1", hub.address, repeat=MessageId(old.epoch, old.epoch - 1, 1))
    with pytest.raises(Refused):
        await served(stale)


async def served(stale: Node) -> None:
    """A restarted hub may welcome a node before it has read its roster, and closes the link then."""
    await stale.start(DEADLINE_S)
    for _ in range(2):
        await unicast(stale, "nobody", "x")


async def test_a_message_of_unknown_outcome_is_repeated_under_its_id(hub: HubProcess) -> None:
    async with node(hub, "game-1") as game:
        host, alice = Host(game), Client()
        await host.attach("alice", alice)
        sender = Node("cli", hub.address)
        await sender.start(DEADLINE_S)
        hub.signal(signal.SIGSTOP)
        receipt = await sender.unicast("alice", "once", timeout_s=0.2)
        assert receipt.outcome == "unknown"
        await sender.close(0)
        hub.signal(signal.SIGCONT)
        again = Node("cli", hub.address, repeat=receipt.id)
        await again.start(DEADLINE_S)
        repeated = await asyncio.wait_for(again.unicast("alice", "once", message_id=receipt.id), DEADLINE_S)
        assert repeated.outcome in ("delivered", "stored")
        assert repeated.id == receipt.id
        await again.close()
        assert [text for _, text in alice.handled] == [b"once"]


async def test_no_hub_is_a_clear_error(tmp_path: Path) -> None:
    lonely = Node("lonely", "tcp://127.0.0.1:1")
    with pytest.raises(CannotReachHub, match=r"127\.0\.0\.1:1 after 0\.2 s"):
        await lonely.start(0.2)
    await lonely.close(0)
    nonsense = Node("lonely", "nonsense")
    with pytest.raises(CannotReachHub, match="nonsense"):
        await nonsense.start(0.2)
    await nonsense.close(0)
    with pytest.raises(BusError, match="closed"):
        await nonsense.unicast("a", "b")


async def test_a_node_started_before_its_hub_connects_by_itself(tmp_path: Path) -> None:
    hub = HubProcess(tmp_path).start()
    hub.kill()
    early = Node("early", hub.address)
    starting = asyncio.create_task(early.start(DEADLINE_S))
    await asyncio.sleep(0.2)
    hub.start()
    await starting
    assert early.up
    await early.close()
    hub.close()


async def test_sigterm_drains_and_exits_0(hub: HubProcess) -> None:
    async with node(hub, "ops"):
        assert await asyncio.to_thread(hub.terminate) == 0


async def test_a_second_hub_on_the_same_mailbox_says_who_holds_it(hub: HubProcess, tmp_path: Path) -> None:
    second = HubProcess(tmp_path, "mailbox.wait_s=0")
    with pytest.raises(AssertionError) as error:
        second.start()
    assert hub.process is not None
    assert f"is held by pid {hub.process.pid} since" in str(error.value)
    assert second.process is not None
    assert second.process.wait() == 3


async def test_stopped_hub_keeps_the_lock(hub: HubProcess, tmp_path: Path) -> None:
    """BUS.md section 12: a new hub waits for a stopped one and opens once that is killed."""
    async with node(hub, "game-1") as game, node(hub, "ops") as ops:
        await Host(game).attach("alice", Client())
        await game.leave_player("alice")
        assert (await unicast(ops, "alice", "m")).outcome == "stored"
    hub.signal(signal.SIGSTOP)
    second = HubProcess(tmp_path, "mailbox.durability=process-crash")
    starting = asyncio.create_task(asyncio.to_thread(second.start))
    await until(lambda: "is held by" in hub.log.read_text())
    assert not starting.done()
    hub.kill()
    await starting
    try:
        async with node(second, "game-2") as game:
            host, alice = Host(game), Client()
            await host.attach("alice", alice)
            await until(lambda: alice.handled)
            assert [text for _, text in alice.handled] == [b"m"]
    finally:
        second.close()


async def test_garbage_on_the_socket_harms_nobody(hub: HubProcess) -> None:
    host, _, port = hub.address.removeprefix("tcp://").rpartition(":")
    async with node(hub, "ops") as ops:
        for garbage in (b"", b"GET / HTTP/1.1\r\n\r\n", os.urandom(4_000), b"\xff" * 64 + b"\x00" * 900):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(garbage)
            writer.close()
        assert (await unicast(ops, "nobody", "x")).outcome == "refused"
        assert ops.counters["links"] == 1
