"""Real sessions and real client logic under losses, kills, moves and logins in any order; a naive oracle.

Two servers (`Sessions`) and one client (`Resume`); between them connections: a cut loses what is under way;
and a bus that is a list: it delivers what is not acked to whoever hosts the player, again after each
login, whatever the client's cursor says. The oracle knows what was sent: messages come once and in order over
everything, events without a gap as long as the session is resumed, actions are done once.
"""

import asyncio
from collections import deque

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zmqgame import protocol, resume, tokens
from zmqgame.play.sessions import Door, Sessions
from zmqgame.protocol import EDGE_CLOSE, EDGE_OPEN
from zmqgame.resume import Broken, Resume
from zmqgame_bus.messages import Attached
from zmqgame_native import Delivery, MessageId

SECRET = bytes(32)
KEY = 7  # the sender's
SERVERS = ("game-1", "game-2")


class Bus:
    """A list of messages; the player's host, its login, and how far it has acked."""

    def __init__(self):
        self.messages = 0
        self.acked = 0
        self.host, self.login = None, 0

    def unacked(self):
        return [self.delivery(seq) for seq in range(self.acked + 1, self.messages + 1)]

    def delivery(self, seq):
        return Delivery(1, str(seq).encode(), "ann", MessageId(KEY, 1, seq))

    def send(self):
        self.messages += 1
        if self.host is not None and self.host.alive:
            self.host.sessions.delivered([self.delivery(self.messages)])


class Server:
    """One process: its sessions, between the bus and its connections."""

    def __init__(self, world, name):
        self.world, self.name, self.alive = world, name, True
        self.rows, self.connections = [], {}
        self.sessions = Sessions(Door(name, "", SECRET, SECRET, 10, 60_000), self, self, self)
        self.events = 0

    # the edge

    def receive(self):
        rows, self.rows = self.rows, []
        return rows

    def send(self, writes):
        for connection, kind, sequence, payload in writes:
            if connection in self.connections:
                self.connections[connection].to_client.append((kind, sequence, payload))
        return 0

    def close(self, connection, reason=""):
        closed = self.connections.pop(connection, None)
        if closed is not None:
            closed.to_client.append(None)

    def counters(self):
        return {}

    # the node

    async def attach(self, player, *, login=0, cursor=()):
        bus = self.world.bus
        if bus.host is self and login and login == bus.login:
            return Attached(login, True, bus.unacked())
        before = bus.host
        bus.host, bus.login = self, bus.login + 1
        if before not in (None, self) and before.alive:
            before.sessions.dropped(player, "a newer login")
        self.sessions.bound(player, bus.login)
        asyncio.get_running_loop().call_soon(self.sessions.delivered, bus.unacked())
        return Attached(bus.login, False, [])

    def handled(self, player, message_id):
        if self.world.bus.host is self:
            self.world.bus.acked = max(self.world.bus.acked, message_id.seq)

    def detach(self, player):
        pass

    # the game

    def attached(self, session, *, fresh):
        if fresh:
            self.events = 0

    def detached(self, session):
        pass

    def gone(self, session, why):
        pass

    def action(self, session, payload):
        self.world.actions.append(payload["n"])
        self.world.last_action = session.last_action

    def last_action(self, player, session):
        return self.world.last_action  # as a match does that was kept up to its last frame

    def inputs(self, session, frame, payload):
        pass

    def emit(self):
        if "ann" in self.sessions.by_player:
            self.events += 1
            self.sessions.event("ann", orjson.dumps({"type": "n", "n": self.events}))
            self.sessions.flush()


class Connection:
    """What is under way, both ways."""

    def __init__(self, number, server):
        self.number, self.server = number, server
        self.to_client, self.to_server = deque(), deque()


class World:
    """Everything, and what the client was handed."""

    def __init__(self):
        self.bus = Bus()
        self.servers = {name: Server(self, name) for name in SERVERS}
        self.client, self.connection, self.numbers = Resume(), None, 0
        self.token = tokens.sign(SECRET, "ann", 5, 3_600)
        self.messages, self.events = [], []
        self.actions, self.acted, self.last_action = [], 0, 0
        self.moved_to = None

    async def settle(self):
        for _ in range(6):
            await asyncio.sleep(0)

    def act(self):
        if self.client.waiting < 50:
            self.acted += 1
            self.client.act(orjson.dumps({"type": "n", "n": self.acted}))
            self.flush()

    def flush(self):
        for packet in self.client.take():
            if self.connection is not None:
                self.connection.to_server.append(packet)

    def connect(self, name):
        if self.connection is not None:
            return
        server = self.servers[self.moved_to or name]
        if not server.alive:
            server = next(each for each in self.servers.values() if each.alive)
        self.moved_to = None
        self.numbers += 1
        self.connection = server.connections[self.numbers] = Connection(self.numbers, server)
        server.rows.append((self.numbers, EDGE_OPEN, 0, b'{"transport":"tcp"}'))
        self.connection.to_server.append(self.client.login(self.token))

    def cut(self):
        lost, self.connection = self.connection, None
        self.client.lost()
        if lost is not None and lost.number in lost.server.connections:
            del lost.server.connections[lost.number]
            lost.server.rows.append((lost.number, EDGE_CLOSE, 0, b"gone"))
            lost.server.sessions.receive(0)

    def up(self, count):
        """Some packets arrive at the server."""
        connection = self.connection
        while connection is not None and connection.to_server and count:
            count -= 1
            packet = connection.to_server.popleft()
            if connection.number in connection.server.connections:
                connection.server.rows.append((connection.number, *protocol.read_packet(packet)))
                connection.server.sessions.receive(0)

    def down(self, count):
        """Some packets arrive at the client."""
        connection = self.connection
        while connection is self.connection is not None and connection.to_client and count:
            count -= 1
            packet = connection.to_client.popleft()
            if packet is None:
                self.cut()
                return
            try:
                for received in self.client.receive(*packet):
                    self.hand(received)
            except Broken:
                raise AssertionError(f"a server wrote what breaks a client: {packet}") from None
            self.flush()

    def hand(self, received):
        match received:
            case resume.Welcome(values=values):
                if not values["resumed"]:
                    self.events = []
            case resume.Message(id=message_id):
                self.messages.append(message_id.seq)
                assert self.messages == list(range(1, len(self.messages) + 1))
            case resume.Event(values=values):
                self.events.append(values["n"])
                assert self.events == list(range(1, len(self.events) + 1))
            case resume.Bye(again=again, server=server):
                assert again in ("moved", "other", "yes"), received
                self.moved_to = server["name"] if server else None

    def kill(self, name):
        dead = self.servers[name]
        dead.alive = False
        if self.connection is not None and self.connection.server is dead:
            dead.connections.clear()
            self.cut()
        if self.bus.host is dead:
            self.bus.host = None
        self.servers[name] = Server(self, name)

    def move(self, name):
        """The server stops in order: its session goes to the other one."""
        source, target = self.servers[name], self.servers[SERVERS[name == SERVERS[0]]]
        source.sessions.freeze()
        session = source.sessions.by_player.get("ann")
        if session is not None and "ann" not in target.sessions.by_player:
            target.sessions.adopt(orjson.loads(orjson.dumps(session.export())), 0)
            target.events = source.events
            source.sessions.moved(session, {"name": target.name})
        source.sessions.frozen = False
        source.sessions.stop()
        for number in list(source.connections):
            source.close(number)
        source.alive = False
        if self.bus.host is source:
            self.bus.host = None
        self.servers[name] = Server(self, name)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["message", "event", "act", "resend", "cut"])),
        st.tuples(st.sampled_from(["up", "down"]), st.integers(1, 8)),
        st.tuples(st.sampled_from(["connect", "kill", "move"]), st.sampled_from(SERVERS)),
        st.tuples(st.just("go"), st.sampled_from(SERVERS)),
    ),
    max_size=60,
)


async def do(world, step):
    match step:
        case ("message",):
            world.bus.send()
        case ("event",):
            for server in list(world.servers.values()):
                server.emit()
        case ("act",):
            world.act()
        case ("resend",):
            world.client.resend()
            world.flush()
        case ("cut",):
            world.cut()
        case ("up", count):
            world.up(count)
        case ("down", count):
            world.down(count)
        case ("connect", name):
            world.connect(name)
        case ("kill", name):
            world.kill(name)
        case ("move", name):
            world.move(name)
        case ("go", name):  # connected and all of it arrives
            world.connect(name)
            for _ in range(3):
                world.up(99)
                await world.settle()
                world.down(99)
    await world.settle()


async def play(steps):
    world = World()
    for step in steps:
        await do(world, step)
        assert world.actions == list(range(1, len(world.actions) + 1))
    for _ in range(8):  # now all is well for long enough
        await do(world, ("go", "game-1"))
        await do(world, ("resend",))
    assert world.messages == list(range(1, world.bus.messages + 1))
    assert world.actions == list(range(1, world.acted + 1))
    assert world.client.waiting == 0
    assert world.bus.acked == world.bus.messages
    for server in world.servers.values():
        session = server.sessions.by_player.get("ann")
        if session is not None and session.connection is not None:
            assert world.events == list(range(1, server.events + 1))
            assert session.kept == 0


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_nothing_is_lost_doubled_or_out_of_order(steps):
    asyncio.run(play(steps))


def test_a_walk_through_all_of_it():
    asyncio.run(
        play(
            [
                ("go", "game-1"), ("message",), ("event",), ("act",), ("go", "game-1"),
                ("message",), ("event",), ("down", 1), ("act",), ("up", 1), ("cut",), ("go", "game-1"),
                ("message",), ("event",), ("act",), ("up", 1), ("move", "game-1"), ("down", 1), ("cut",),
                ("go", "game-2"), ("event",), ("message",), ("down", 2), ("kill", "game-2"), ("go", "game-1"),
            ]
        )
    )  # fmt: skip
