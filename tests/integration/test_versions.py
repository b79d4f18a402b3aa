"""A hub serves its own version and the one before; a node finds its way with a hub of the one before."""

import asyncio
import contextlib
import hashlib
import json
import signal
import struct
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import zmq
from zmqgame_bus.errors import NotSupportedByHub
from zmqgame_bus.messages import Receipt
from zmqgame_bus.node import Node

from tests.bus_tools import Client, Host, HubProcess, transport, until  # noqa: F401
from tests.versions.client_v1 import ERROR, HELLO, WELCOME, Fields, message, node_key, text

VERSIONS = Path(__file__).parents[1] / "versions"
VECTORS = Path(__file__).parents[1] / "vectors" / "bus"

FROZEN = {
    VECTORS / "node_to_hub_v1.json": "474c22db7af5be936ce582989fc170711bb68f4e10eb7041b94e463a8f78e1ec",
    VECTORS / "hub_to_node_v1.json": "3f8c1889d82de7741df2477dcc1e5be4c76c2ccaaa6c21e8737e52f4900bfbb2",
    VERSIONS / "client_v1.py": "2f3da625733da2200608d8c0d2233c5baa16068be7ab6f5e6b1fdb7e50a0ad19",
    VERSIONS / "hub_v1.py": "020cba50495ea1392af85ef1b6db6ecdd5beb9dcf9899992a32b6dc9d45640da",
}


@pytest.mark.parametrize("path", FROZEN, ids=lambda path: path.name)
def test_what_older_versions_said_is_never_written_again(path: Path) -> None:
    assert hashlib.sha256(path.read_bytes()).hexdigest() == FROZEN[path]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    hub = HubProcess(tmp_path).start()
    yield hub
    hub.close()


async def test_a_node_of_version_1_has_all_its_operations(hub: HubProcess) -> None:
    # A node of today is there too, so that the old one sees its presence and its messages.
    async with Node("game-1", hub.address) as game:
        host, amy = Host(game), Client()
        await host.attach("amy", amy)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", str(VERSIONS / "client_v1.py"), hub.address, stdout=-1, stderr=-1
        )
        output, errors = await asyncio.wait_for(process.communicate(), 120)
        assert process.returncode == 0, errors.decode()
        # Its broadcast reached the player of the new node.
        await until(lambda: amy.handled)
        assert [payload for _, payload in amy.handled] == [b"hi"]
    done = json.loads(output)
    assert done["unknown"][0] == "refused"
    assert done["live"] == ["live", ["delivered", ""]]
    assert done["joined"] == done["left"] == [1, ""]
    payload, (counts, entries) = done["group"]
    assert (payload, counts, entries) == ("all", [1, 0, 0, 0, 0, 0, 0], [["delivered", "zoe", ""]])
    payload, (counts, entries) = done["broadcast"]
    assert (payload, counts, entries) == ("hi", [2, 0, 0, 0, 0, 0, 0], [])
    assert done["empty group"] == ["refused", "unknown group"]
    assert done["request"] == [["old-node", "old-echo", "ask"], [1, 0, "told"]]
    assert done["no service"][1] == 2
    assert done["cancelled"] == 5
    assert {"hub_epoch", "nodes"} <= set(done["status"])
    assert "zoe" in json.dumps(done["players"])
    assert done["resent"] == ["delivered", ""]
    assert done["pong"] == 77
    assert done["offline"][0] == "stored"
    assert done["stored"] == "kept"


def say_hello(address: str, low: int, high: int, features: int = 0) -> tuple[int, Fields]:
    """What the hub answers to a range of versions."""
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.linger, socket.rcvtimeo = 0, 60_000
    socket.connect(address)
    numbers = struct.pack("<HHQQQIQQ", low, high, node_key("n"), 1, high, 0, 1, features)
    socket.send(message(HELLO, numbers + text("n") + struct.pack("<I", 0)))
    frame = socket.recv()
    socket.close()
    length, kind, _, _ = struct.unpack_from("<IBBH", frame)
    return kind, Fields(frame[8:length])


@pytest.mark.parametrize(("low", "high", "version"), [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 9, 2), (1, 9, 2)])
def test_the_highest_common_version_is_chosen(hub: HubProcess, low: int, high: int, version: int) -> None:
    kind, fields = say_hello(hub.address, low, high)
    assert (kind, fields.take("H")) == (WELCOME, (version,))
    fields.take("IIIIIII")
    for _ in range(*fields.take("I")):
        fields.take("HH"), fields.text()
    # Features stand behind what version 1 knows, and only from version 2 on.
    if version == 1:
        assert fields.data == b""
    else:
        (features,) = fields.take("Q")
        assert features & ~0b11111 == 0, "a feature that PROTOCOL.md does not name"


@pytest.mark.parametrize(("low", "high"), [(3, 4), (3, 65_535), (0, 0), (2, 1)])
def test_a_node_without_a_common_version_is_told_both_ranges(hub: HubProcess, low: int, high: int) -> None:
    kind, fields = say_hello(hub.address, low, high)
    assert (kind, fields.take("H")) == (ERROR, (2,))
    said = fields.text()
    assert f"{low} to {high}" in said
    assert "1 to 2" in said


class OldHub:
    """The frozen hub as a process."""

    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        self.process, self.address = process, address

    async def told(self) -> dict[str, object]:
        assert self.process.stdin is not None
        self.process.stdin.close()
        output, errors = await asyncio.wait_for(self.process.communicate(), 60)
        assert self.process.returncode == 0, errors.decode()
        return json.loads(output)


@pytest.fixture
async def old_hub() -> AsyncIterator[OldHub]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", str(VERSIONS / "hub_v1.py"), stdin=-1, stdout=-1, stderr=-1
    )
    assert process.stdout is not None
    yield OldHub(process, json.loads(await process.stdout.readline())["hub"])
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def test_a_node_of_today_speaks_version_1_with_an_old_hub(old_hub: OldHub) -> None:
    async with Node("game-1", old_hub.address, roles=["game"]) as node:
        host, amy = Host(node), Client()
        await host.attach("amy", amy)
        receipts = [await node.unicast("amy", str(number)) for number in range(20)]
        assert {receipt.outcome for receipt in receipts} == {"delivered"}
        assert (await node.unicast("bob", "later")).outcome == "stored"
        await node.multicast("crew", "all")
        assert [payload for _, payload in amy.handled] == [str(number).encode() for number in range(20)]
        assert (await node.unicast("amy", "20")).outcome == "delivered"
    told = await old_hub.told()
    assert told["hellos"] == [[1, 2, "game-1", ["game"]]]
    assert told["sends"] == 23


WISHES = [
    ({"policy": "latest", "key": "k"}, "policy"),
    ({"policy": "droppable"}, "policy"),
    ({"ttl_s": 60}, "deadline"),
    ({"deliver_at": 4_000_000_000}, "deferred"),
]


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize(("wish", "feature"), WISHES, ids=str)
async def test_what_an_old_hub_can_not_do_is_an_error_of_the_call(
    old_hub: OldHub, wish: dict[str, object], feature: str
) -> None:
    async with Node("game-1", old_hub.address) as node:
        host, amy = Host(node), Client()
        await host.attach("amy", amy)
        calls = [lambda: node.unicast("amy", "x", **wish)]
        if feature != "deferred":
            calls.append(lambda: node.unicast_many([("amy", "x")], **wish))
            calls.append(lambda: node.multicast("crew", "x", **wish))
            calls.append(lambda: node.broadcast("x", **wish))
        for call in calls:
            with pytest.raises(
                NotSupportedByHub, match=f"not support: {feature} .it speaks version 1"
            ) as error:
                await call()
            assert (error.value.feature, error.value.version) == (feature, 1)
        with pytest.raises(NotSupportedByHub):
            node.post("amy", "x", **wish)
        # Nothing of it was sent, and the next message goes its way; `trace` is a wish that may not come true.
        assert (await node.unicast("amy", "y", trace=True)).outcome == "delivered"
        assert [payload for _, payload in amy.handled] == [b"y"]
    assert (await old_hub.told())["sends"] == 1


@pytest.mark.usefixtures("transport")
async def test_what_was_taken_before_the_old_hub_was_known_ends_the_same_way(old_hub: OldHub) -> None:
    node = Node("game-1", old_hub.address)
    # It listens, so that the node can connect, and says nothing.
    old_hub.process.send_signal(signal.SIGSTOP)
    stat = Path(f"/proc/{old_hub.process.pid}/stat")
    await until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
    starting = asyncio.create_task(node.start(60))
    await asyncio.sleep(0)
    told: list[Receipt] = []
    assert not node.up
    later = asyncio.create_task(node.unicast("amy", "x", deliver_at=4_000_000_000))
    soon = asyncio.create_task(node.unicast("amy", "x", ttl_s=60))
    loose = asyncio.create_task(node.unicast("amy", "x", policy="droppable"))
    node.post("amy", "x", ttl_s=60, on_receipt=told.append)
    await asyncio.sleep(0.01)  # All are taken.
    old_hub.process.send_signal(signal.SIGCONT)
    await starting
    for task, feature in ((later, "deferred"), (soon, "deadline")):
        with pytest.raises(NotSupportedByHub) as error:
            await asyncio.wait_for(task, 60)
        assert error.value.feature == feature
    await until(lambda: told)
    assert (told[0].outcome, told[0].detail) == ("refused", "not supported: deadline")
    # A policy other than must-deliver needs a hub that is there.
    receipt = await asyncio.wait_for(loose, 60)
    assert (receipt.outcome, receipt.detail) == ("dropped", "no link to the hub")
    await node.close()
    assert (await old_hub.told())["sends"] == 0
