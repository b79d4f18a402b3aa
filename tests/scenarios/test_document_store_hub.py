"""The document store under a real hub: the database away, killed, or taken by another hub."""

import asyncio
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pymongo
import pytest
from zmqgame_bus.node import Node

from tests.bus_tools import DEADLINE_S, Client, Host, HubProcess, until
from tests.mongod import Foreign, Mongod, Proxy, fresh_name, inserts


class Database:
    """A database of its own behind a proxy, and the hubs that use it."""

    def __init__(self, mongod: Mongod | Foreign) -> None:
        self.mongod = mongod
        self.name = fresh_name()
        self.proxy = Proxy(mongod.port)
        self.hubs: list[HubProcess] = []
        self.plain = pymongo.MongoClient(mongod.url(self.name))

    def hub(self, folder: Path, *settings: str, straight: bool = False) -> HubProcess:
        folder.mkdir(exist_ok=True)
        url = self.mongod.url(self.name, 0 if straight else self.proxy.port)
        options = "&" if "?" in url else "?"
        url += f"{options}serverSelectionTimeoutMS=300"
        hub = HubProcess(
            folder, f"mailbox.url={url}", "hub.node_grace_ms=300", "hub.hub_grace_ms=300", *settings
        )
        self.hubs.append(hub)
        return hub

    def away(self) -> None:
        self.proxy.away = True
        self.proxy.cut_all()

    def back(self) -> None:
        self.proxy.away = False

    def chain(self, **query: object) -> list[dict]:
        return list(self.plain[self.name]["mailbox_chain"].find(query).sort([("run", 1), ("batch", 1)]))

    def close(self) -> None:
        for hub in self.hubs:
            hub.close()
        self.proxy.close()
        self.plain.drop_database(self.name)
        self.plain.close()


@pytest.fixture
def database(mongod: Mongod | Foreign) -> Iterator[Database]:
    database = Database(mongod)
    yield database
    database.close()


async def started(hub: HubProcess, name: str) -> Node:
    node = Node(name, hub.address)
    await node.start(DEADLINE_S)
    return node


async def offline(game: Node, player: str) -> tuple[Host, Client]:
    """A player that is known and away."""
    host, client = Host(game), Client()
    await host.attach(player, client)
    await game.leave_player(player)
    return host, client


def epoch_of(hub: HubProcess) -> int:
    return int(re.findall(r"epoch (\d+) on", hub.log.read_text())[-1])


async def test_hub_epoch_grows_without_store(database: Database, tmp_path: Path) -> None:  # [41]
    hub = database.hub(tmp_path / "hub")
    (hub.folder / "hub.epoch").write_text("4000000000")  # the clock went back: the file is above it
    database.away()
    epochs = []
    for start in range(3):
        hub.start()
        epochs.append(epoch_of(hub))
        if start < 2:
            hub.kill()
    assert epochs == [4_000_000_001, 4_000_000_002, 4_000_000_003]
    assert "starting without the mailbox" in hub.log.read_text()
    game, ops = await started(hub, "game-1"), await started(hub, "ops")
    sending = asyncio.create_task(ops.unicast("nobody", "x", timeout_s=30))
    await asyncio.sleep(0.5)
    assert not sending.done()  # nothing is confirmed, not even that there is no such player
    assert database.chain() == []
    database.back()
    assert (await sending).outcome == "refused"
    [claim] = database.chain(kind="claim")
    assert claim["run"] >> 31 == epochs[-1]
    host, alice = await offline(game, "alice")
    assert (await ops.unicast("alice", "m1")).outcome == "stored"
    await host.attach("alice", alice)
    await until(lambda: len(alice.handled) == 1)
    await game.close(0.2)
    await ops.close(0.2)


async def test_a_store_that_is_away_confirms_nothing_and_loses_nothing(
    database: Database, tmp_path: Path
) -> None:
    hub = database.hub(tmp_path / "hub").start()
    game, ops = await started(hub, "game-1"), await started(hub, "ops")
    host, alice = await offline(game, "alice")
    bob = Client()
    await host.attach("bob", bob)
    assert (await ops.unicast("alice", b"0")).outcome == "stored"
    for turn in range(3):
        database.away()
        first = 1 + turn * 5
        sending = [asyncio.create_task(ops.unicast("alice", b"%d" % (first + n))) for n in range(5)]
        await until(lambda: hub.log.read_text().count("nothing is confirmed as stored") > turn)  # noqa: B023
        assert not any(task.done() for task in sending)
        assert (await ops.unicast("bob", b"live")).outcome == "delivered"  # [38]
        database.back()
        receipts = await asyncio.wait_for(asyncio.gather(*sending), DEADLINE_S)
        assert {receipt.outcome for receipt in receipts} == {"stored"}
    await host.attach("alice", alice)
    await until(lambda: len(alice.handled) == 16)
    assert [int(payload) for _, payload in alice.handled] == list(range(16))
    await game.close(0.2)
    await ops.close(0.2)


async def test_a_killed_database_comes_back_with_all_that_was_stored(tmp_path: Path, mongod: Mongod) -> None:
    if isinstance(mongod, Foreign):
        pytest.skip("a real replica set is not ours to kill")
    (tmp_path / "own").mkdir()
    own = Mongod(mongod.binary, tmp_path / "own")
    database = Database(own)
    try:
        hub = database.hub(tmp_path / "hub", straight=True).start()
        game, ops = await started(hub, "game-1"), await started(hub, "ops")
        host, alice = await offline(game, "alice")
        for turn in range(3):
            sending = [asyncio.create_task(ops.unicast("alice", b"%d" % (turn * 20 + n))) for n in range(20)]
            await asyncio.sleep(0.02 * turn)
            own.kill()
            own.start()
            receipts = await asyncio.wait_for(asyncio.gather(*sending), DEADLINE_S)
            assert {receipt.outcome for receipt in receipts} == {"stored"}
            if turn == 1:
                hub.kill()
                hub.start()
        await host.attach("alice", alice)
        await until(lambda: len(alice.handled) == 60)
        assert [int(payload) for _, payload in alice.handled] == list(range(60))
        await game.close(0.2)
        await ops.close(0.2)
    finally:
        database.close()
        own.close()


async def test_a_hub_whose_store_was_taken_ends_and_says_so(database: Database, tmp_path: Path) -> None:
    """`paused_hub_commits_after_seal` with processes: stopped in a batch, replaced, and let go on."""
    old = database.hub(tmp_path / "old").start()
    game, ops = await started(old, "game-1"), await started(old, "ops")
    await offline(game, "alice")
    await game.close(0.2)
    commit = database.proxy.fault(inserts("chain", "commit"), "hold")
    sending = asyncio.create_task(ops.unicast("alice", b"m1", timeout_s=60))
    assert await asyncio.to_thread(commit.met.wait, DEADLINE_S)
    new = database.hub(tmp_path / "new", straight=True).start()
    other = await started(new, "game-2")
    host, alice = Host(other), Client()
    await host.attach("alice", alice)
    await until(lambda: len(database.chain(kind="seal")) == 1)
    await asyncio.to_thread(commit.release)
    assert old.process is not None
    assert await asyncio.to_thread(old.process.wait, DEADLINE_S) == 4  # which no supervisor starts again
    assert "was claimed by hub epoch" in old.log.read_text()
    assert not sending.done()
    new.kill()
    new.address = old.address  # where the sender looks for the hub
    new.start()
    assert (await sending).outcome == "stored"
    await other.close(0.2)
    other = await started(new, "game-2")
    host = Host(other)
    alice.login = 0
    await host.attach("alice", alice)
    await until(lambda: len(alice.handled) == 1)
    assert alice.handled[0][1] == b"m1"
    await other.close(0.2)
    await ops.close(0.2)


async def test_messages_for_later_come_once_over_kills_of_the_hub(
    database: Database, tmp_path: Path
) -> None:  # [37]
    hub = database.hub(tmp_path / "hub").start()
    game, ops = await started(hub, "game-1"), await started(hub, "ops")
    host, alice = await offline(game, "alice")
    at_s = time.time() + 4
    sending = [ops.unicast("alice", b"%d" % number, deliver_at=at_s - number * 0.01) for number in range(10)]
    later = await asyncio.gather(*sending)
    assert {receipt.outcome for receipt in later} == {"stored"}
    promoted = database.proxy.fault(inserts("promoted"), "unanswered")
    hub.kill()
    hub.start()
    assert await asyncio.to_thread(
        promoted.met.wait, DEADLINE_S
    )  # some are due; nobody knows what became of them
    hub.kill()
    hub.start()
    await host.attach("alice", alice)
    await until(lambda: len(alice.handled) == 10)
    assert [int(payload) for _, payload in alice.handled] == list(range(9, -1, -1))
    await game.close(0.2)
    await ops.close(0.2)


async def test_a_full_mailbox_refuses_and_says_what_is_full(
    database: Database, tmp_path: Path
) -> None:  # [35]
    hub = database.hub(tmp_path / "hub", "mailbox.player_messages=5").start()
    game, ops = await started(hub, "game-1"), await started(hub, "ops")
    host, alice = await offline(game, "alice")
    receipts = [await ops.unicast("alice", b"%d" % number) for number in range(7)]
    assert [receipt.outcome for receipt in receipts] == ["stored"] * 5 + ["refused"] * 2
    assert "5 of 5" in receipts[-1].detail
    await host.attach("alice", alice)
    await until(lambda: len(alice.handled) == 5)
    assert (await ops.unicast("alice", b"more")).outcome == "delivered"
    await game.close(0.2)
    await ops.close(0.2)
