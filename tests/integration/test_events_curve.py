"""CURVE between publishers and stats: the hub's keys, each for its own names; plain on loopback only."""

from __future__ import annotations

import asyncio

import pytest
import zmq
import zmq.asyncio
from zmqgame_bus.admission import Admission
from zmqgame_bus.events import Emitter, PlainNotLoopback, refuse_plain
from zmqgame_bus.keys import Allowed, KeyPair, NodeKeys, decode
from zmqgame_bus.records import Frame, decode_frame

from tests.waiting import until


def pair() -> KeyPair:
    public, secret = zmq.curve_keypair()
    return KeyPair(decode(public.decode()), decode(secret.decode()))


class Stats:
    """The protected SUB socket as stats binds it."""

    def __init__(self, allowed: list[Allowed]) -> None:
        self.pair = pair()
        self.context = zmq.asyncio.Context()
        self.admission = Admission(self.context, allowed)
        self.socket = self.context.socket(zmq.SUB)
        self.socket.subscribe(b"")
        self.admission.protect(self.socket, self.pair)
        self.endpoint = f"tcp://127.0.0.1:{self.socket.bind_to_random_port('tcp://127.0.0.1')}"

    def keys(self, own: KeyPair, server: bytes | None = None) -> NodeKeys:
        return NodeKeys(own.public, own.secret, server or self.pair.public)

    async def receive(self, timeout_s: float = 60.0) -> tuple[Frame, bool]:
        message = await asyncio.wait_for(self.socket.recv(copy=False), timeout_s)
        frame = decode_frame(message.buffer)
        return frame, self.admission.may_speak_for(message, frame.source)

    def close(self) -> None:
        self.admission.close()
        self.socket.close(linger=0)
        self.context.term()


@pytest.fixture
def emitter(tmp_path):
    made: list[Emitter] = []

    def make(source: str, endpoint: str, keys: NodeKeys | None) -> Emitter:
        emitter = Emitter(source, spool_dir=tmp_path, publish=endpoint, keys=keys, announce_s=0.05)
        made.append(emitter)
        emitter.emit("messages", id="1")
        return emitter

    yield make
    for each in made:
        each.close()


async def test_an_admitted_key_speaks_for_its_names_only(emitter):
    own = pair()
    stats = Stats([Allowed(own.public, "game-*", ("game",))])
    emitter("game-1", stats.endpoint, stats.keys(own))
    frame, may = await stats.receive()
    assert (frame.source, may) == ("game-1", True)
    assert stats.admission.counters["admitted"] == 1
    emitter("hub", stats.endpoint, stats.keys(own))
    while frame.source != "hub":
        frame, may = await stats.receive()
    assert not may
    stats.close()


async def test_a_key_that_is_not_admitted_stays_outside(emitter):
    stats = Stats([Allowed(pair().public, "*", ("*",))])
    emitter("game-1", stats.endpoint, stats.keys(pair()))
    await until(lambda: stats.admission.counters["refused"] > 0)
    with pytest.raises(TimeoutError):
        await stats.receive(0.5)
    stats.close()


async def test_the_wrong_server_key_and_no_key_get_nowhere(emitter):
    own = pair()
    stats = Stats([Allowed(own.public, "*", ("*",))])
    emitter("game-1", stats.endpoint, stats.keys(own, server=pair().public))
    emitter("game-2", stats.endpoint, None)
    with pytest.raises(TimeoutError):
        await stats.receive(1.0)
    emitter("game-3", stats.endpoint, stats.keys(own))
    assert (await stats.receive())[0].source == "game-3"
    stats.close()


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://10.0.0.1:7601",
        "tcp://0.0.0.0:7601",
        "tcp://*:7601",
        "tcp://[::]:7601",
        "tcp://stats.example:7601",
        "tcp://eth0:1",
    ],
)
def test_plain_events_never_leave_the_machine(endpoint, tmp_path):
    with pytest.raises(PlainNotLoopback, match="not on loopback"):
        Emitter("game-1", spool_dir=tmp_path, publish=endpoint)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "endpoint",
    ["tcp://127.0.0.1:7601", "tcp://127.8.9.1:1", "tcp://[::1]:7601", "tcp://localhost:1", "ipc:///tmp/x"],
)
def test_plain_events_on_this_machine_are_allowed(endpoint):
    refuse_plain(endpoint)


async def test_a_publisher_tries_the_keys_that_it_trusts_in_turn(emitter) -> None:
    own = pair()
    stats = Stats([Allowed(own.public, "game-*", ("*",))])
    try:
        # stats has its new key already, or the publisher has the new list and stats still its old key.
        for number, trusted in enumerate(
            [(pair().public, stats.pair.public), (stats.pair.public, pair().public)]
        ):
            keys = NodeKeys(own.public, own.secret, trusted[0], trusted[1:])
            made = emitter(f"game-{number}", stats.endpoint, keys)
            made.emit("Probe", id="1")
            while True:
                frame, allowed = await stats.receive()
                if frame.source == f"game-{number}":
                    break
            assert allowed
    finally:
        stats.close()


async def test_a_revoked_key_speaks_for_nobody_any_more(emitter) -> None:
    own = pair()
    stats = Stats([Allowed(own.public, "game-*", ("*",))])
    try:
        made = emitter("game-1", stats.endpoint, stats.keys(own))
        made.emit("Probe", id="1")
        assert (await stats.receive())[1]
        stats.admission.allow([Allowed(pair().public, "*", ("*",))])
        made.emit("Probe", id="2")
        assert not (await stats.receive())[1]
    finally:
        stats.close()
