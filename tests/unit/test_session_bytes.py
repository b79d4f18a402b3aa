"""Any bytes from one client: a typed end for its own connection, and nobody else notices."""

import asyncio
import contextlib
import itertools
import json
from types import SimpleNamespace

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zmqgame import limits, protocol, tokens
from zmqgame.play.config import GameConfig
from zmqgame.play.drag import DragRace
from zmqgame.play.game import Game
from zmqgame.play.matches import Matches, phases_of
from zmqgame.play.player import Session
from zmqgame.play.record import RecordFolder
from zmqgame.play.rules import Refused
from zmqgame.play.sessions import Door, EdgeDied, Sessions
from zmqgame.protocol import EDGE_CLOSE, EDGE_OPEN, ToClient, ToServer
from zmqgame_bus.messages import Attached

SECRET = bytes(range(32))
REASONS = {
    "bad_token",
    "token_expired",
    "malformed",
    "limit",
    "full",
    "away",
    "taken_over",
    "too_slow",
    "left",
}


class Place:
    """Edge, bus and game around real sessions."""

    def __init__(self, **door):
        options = {"max_players": 10, "grace_ms": 60_000, **door}
        self.sessions = Sessions(Door("game-1", "", SECRET, SECRET, **options), self, self, self)
        self.rows, self.sent, self.closed = [], {}, {}
        self.numbers = itertools.count(1)
        self.inputs_of, self.acted = [], []
        self.login = 0

    def receive(self):
        rows, self.rows = self.rows, []
        return rows

    def send(self, writes):
        for connection, kind, _, payload in writes:
            self.sent.setdefault(connection, []).append((kind, payload))
        return 0

    def close(self, connection, reason=""):
        self.closed[connection] = reason

    def peer(self, connection):
        return f"198.51.100.{connection}:1"

    def counters(self):
        return {}

    async def attach(self, player, *, login=0, cursor=()):
        self.login += 1
        return Attached(self.login, False, [])

    async def leave_player(self, player):
        return True

    def handled(self, player, message_id):
        raise AssertionError("no message was delivered")

    def detach(self, player):
        pass

    def attached(self, session, *, fresh):
        pass

    def detached(self, session):
        pass

    def gone(self, session, why):
        pass

    def last_action(self, player, session):
        return 0

    def action(self, session, payload):
        self.acted.append(payload)
        raise Refused("no_match", "not in a match")

    def inputs(self, session, frame, payload):
        self.inputs_of.append((session.player, frame))

    async def take(self, *rows):
        self.rows += rows
        self.sessions.receive(0)
        for _ in range(4):
            await asyncio.sleep(0)

    async def open(self):
        number = next(self.numbers)
        await self.take((number, EDGE_OPEN, 0, b'{"transport":"tcp"}'))
        return number

    async def enter(self, player, session=5, auth_ms=None):
        number = await self.open()
        token = tokens.sign(SECRET, player, session, 3_600, auth_ms)
        await self.take((number, ToServer.LOGIN, 0, protocol.Login(token, 0, 0, 0, []).dump()))
        assert self.kinds(number) == [ToClient.WELCOME]
        return number

    def kinds(self, connection):
        return [kind for kind, _ in self.sent.get(connection, ())]


JUNK = st.one_of(
    st.binary(max_size=80),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**65), 2**65)
        | st.floats(allow_nan=False)
        | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries(
        {},
        optional={
            name: st.one_of(st.integers(-1, 2**65), st.text(max_size=30), st.lists(st.lists(st.integers())))
            for name in ("token", "session", "login", "last_frame", "action", "cursor", "type", "match")
        },
    ).map(lambda value: json.dumps(value).encode()),
)
PACKETS = st.lists(
    st.tuples(st.integers(0, 0xEF) | st.sampled_from(list(ToServer)), st.integers(0, 2**64 - 1), JUNK)
)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PACKETS, st.booleans())
def test_any_packets_end_their_own_connection_only(packets, logged_in):
    async def run():
        place = Place()
        bob = await place.enter("bob")
        eve = await place.enter("eve") if logged_in else await place.open()
        for kind, sequence, payload in packets:
            if eve in place.closed:
                break  # the edge hands over nothing of a closed connection
            await place.take((eve, int(kind), sequence, payload))
        if eve in place.closed:
            kind, payload = place.sent[eve][-1]
            assert kind == ToClient.BYE
            bye = orjson.loads(payload)
            assert bye["reason"] in REASONS
            assert bye["text"] or bye["reason"] == "left"
        await place.take((bob, ToServer.PING, 77, b""), (bob, ToServer.ACTION, 1, b'{"type":"x"}'))
        assert place.kinds(bob) == [ToClient.WELCOME, ToClient.PONG, ToClient.ACTION_ACK]
        assert bob not in place.closed

    asyncio.run(run())


@given(st.binary(max_size=400))
def test_any_bytes_are_a_login_or_refused(data):
    with contextlib.suppress(Refused):
        login = protocol.read_login(data)
        assert protocol.read_login(login.dump()) == login


@given(st.text(max_size=300))
def test_any_text_is_no_token(text):
    with pytest.raises(Refused) as error:
        tokens.verify(SECRET, text)
    assert error.value.kind == "bad_token"


@pytest.mark.parametrize(
    ("packet", "reason", "words"),
    [
        ((ToServer.LOGIN, b"{" * (limits.MAX_LOGIN_BYTES + 1)), "limit", "16385 bytes are over 16384"),
        (
            (ToServer.LOGIN, orjson.dumps({"token": "t", "cursor": [[1, 1, 1]] * 65})),
            "limit",
            "65 entries are over 64",
        ),
        (
            (ToServer.LOGIN, orjson.dumps({"token": "t" * 4_097})),
            "bad_token",
            "4097 characters are over 4096",
        ),
        ((ToServer.PING, b""), "malformed", "first packet is a login"),
    ],
)
async def test_a_refusal_names_limit_value_and_sender(packet, reason, words, caplog):
    place = Place()
    eve = await place.open()
    with caplog.at_level("INFO"):
        await place.take((eve, packet[0], 0, packet[1]))
    bye = orjson.loads(place.sent[eve][-1][1])
    assert bye["reason"] == reason
    assert words in bye["text"]
    assert f"198.51.100.{eve}:1" in caplog.text


async def test_connections_that_do_not_log_in_are_bounded_and_do_not_stay():
    place = Place()
    numbers = [await place.open() for _ in range(limits.MAX_PENDING_LOGINS + 1)]
    assert orjson.loads(place.sent[numbers[-1]][-1][1])["reason"] == "full"
    assert numbers[0] not in place.closed
    place.sessions.housekeep(limits.LOGIN_TIMEOUT_MS)
    assert set(place.closed) == set(numbers)


async def test_players_are_bounded_and_a_second_login_is_no_second_player():
    place = Place(max_players=2)
    first, _ = await place.enter("ann"), await place.enter("bob")
    await place.enter("ann", session=6)
    assert place.closed[first] == "taken_over"
    number = await place.open()
    token = tokens.sign(SECRET, "eve", 7, 3_600)
    await place.take((number, ToServer.LOGIN, 0, protocol.Login(token, 0, 0, 0, []).dump()))
    bye = orjson.loads(place.sent[number][-1][1])
    assert (bye["reason"], bye["text"], bye["again"]) == ("full", "max_players 2", "other")


async def test_who_never_acks_is_too_slow():
    place = Place()
    bob, eve = await place.enter("bob"), await place.enter("eve")
    for _ in range(limits.KEPT_FRAMES + 1):
        place.sessions.event("eve", b"{}")
    assert place.closed == {eve: "too_slow"}
    await place.take((bob, ToServer.PING, 1, b""))
    assert place.kinds(bob)[-1] == ToClient.PONG


async def test_a_connection_that_is_gone_leaves_a_session_for_the_grace_time():
    place = Place()
    bob = await place.enter("bob")
    await place.take((bob, EDGE_CLOSE, 0, b"gone"))
    place.sessions.housekeep(59_999)
    assert "bob" in place.sessions.by_player
    place.sessions.housekeep(60_000)
    assert "bob" not in place.sessions.by_player


async def test_a_turn_takes_so_many_packets_and_the_rest_come_after_it():
    place = Place()
    ann = await place.enter("ann")
    for most in (limits.TURN_PACKETS, 1):  # also when nothing is left after a full turn
        count, before = 3 * limits.TURN_PACKETS + most, len(place.sent[ann])
        place.rows = [(ann, ToServer.PING, number, b"") for number in range(count)]
        turns = []
        while place.sessions.receive(0):
            turns.append(len(place.sent[ann]) - before)
        assert turns[:3] == [limits.TURN_PACKETS, 2 * limits.TURN_PACKETS, 3 * limits.TURN_PACKETS]
        assert len(place.sent[ann]) - before == count
    assert set(place.kinds(ann)[1:]) == {ToClient.PONG}


async def test_who_was_told_bye_is_not_heard_any_more():
    place = Place()
    stranger = await place.open()
    await place.take(*[(stranger, ToServer.PING, 0, b"")] * 100)
    assert place.kinds(stranger) == [ToClient.BYE]
    assert place.sessions.counters["after_bye"] == 99
    await place.take((stranger, EDGE_CLOSE, 0, b"malformed"))
    assert not place.sessions._told


async def test_a_flood_of_refusals_is_counted_and_not_all_written(caplog):
    place, count = Place(), limits.REFUSAL_LINES_BURST + 50
    caplog.set_level("INFO", logger="zmqgame.play.sessions")
    for _ in range(count):
        await place.take((await place.open(), ToServer.PING, 0, b""))
    assert sum("refused" in record.message for record in caplog.records) == limits.REFUSAL_LINES_BURST
    assert place.sessions.counters["refused_malformed"] == count
    assert place.sessions.counters["refusals_not_logged"] == 50


async def test_who_leaves_again_and_again_asks_the_bus_once():
    class Slow(Place):
        asked = 0

        async def leave_player(self, player):
            self.asked += 1
            for _ in range(3):
                await asyncio.sleep(0)
            return True

    place = Slow()
    ann = await place.enter("ann")
    await place.take(*[(ann, ToServer.LEAVE, 0, b"")] * 50)
    assert place.asked == 1
    assert place.kinds(ann)[-1] == ToClient.BYE


def byes(place, connection):
    return [
        orjson.loads(payload)["reason"] for kind, payload in place.sent[connection] if kind == ToClient.BYE
    ]


async def refused(place, player, session, auth_ms):
    """The reason of the bye that a login with such a token gets."""
    number = await place.open()
    token = tokens.sign(SECRET, player, session, 3_600, auth_ms)
    await place.take((number, ToServer.LOGIN, 0, protocol.Login(token, 0, 0, 0, []).dump()))
    (reason,) = byes(place, number)
    return reason


async def test_an_older_token_neither_takes_over_nor_comes_back_after_leave():
    place, now = Place(), tokens.wall_ms()
    thief = await place.enter("ann", session=5, auth_ms=now - 9_000)
    ann = await place.enter("ann", session=6, auth_ms=now - 5_000)
    assert byes(place, thief) == ["taken_over"]
    assert await refused(place, "ann", 5, now - 9_000) == "taken_over"
    assert byes(place, ann) == []
    again = await place.enter("ann", session=6, auth_ms=now - 5_000)
    await place.take((again, ToServer.LEAVE, 0, b""))
    assert byes(place, again) == ["left"]
    for session, auth_ms in ((6, now - 5_000), (5, now - 9_000)):
        assert await refused(place, "ann", session, auth_ms) == "left"
    await place.enter("ann", session=7, auth_ms=now - 1_000)


async def test_tokens_are_renewed_for_so_long_after_the_managers_own():
    place, now = Place(session_max_s=100, token_s=60), tokens.wall_ms()
    assert await refused(place, "ann", 5, now - 101_000) == "token_expired"
    ann = await place.enter("ann", auth_ms=now - 70_000)
    (_, welcome), *_ = place.sent[ann]
    claims = tokens.verify(SECRET, orjson.loads(welcome)["token"])
    assert abs(claims.auth_ms - (now - 70_000)) <= 1
    assert claims.expires_s <= now // 1_000 + 31
    session = place.sessions.by_player["ann"]
    values = orjson.loads(orjson.dumps(session.export()))
    assert Session.adopt(values, 0).auth_ms == session.auth_ms, "a move to another server changes nothing"
    place.sessions.housekeep(20_000)
    tokens_sent = [payload for kind, payload in place.sent[ann] if kind == ToClient.EVENT]
    assert len(tokens_sent) == 1
    session.auth_ms = now - 100_000
    place.sessions.housekeep(60_000)
    assert len([kind for kind in place.kinds(ann) if kind == ToClient.EVENT]) == 1, "no further token"
    assert ann not in place.closed, "who is here may stay"


async def test_inputs_come_by_the_newest_udp_connection_and_by_none_after_the_end():
    place = Place()
    ann = await place.enter("ann")
    by_udp = json.dumps({"transport": "udp", "user_data": tokens.user_data("ann", 5).hex()}).encode()
    stranger = json.dumps({"transport": "udp", "user_data": tokens.user_data("ann", 6).hex()}).encode()
    await place.take((101, EDGE_OPEN, 0, by_udp), (101, ToServer.INPUT, 1, b""))
    await place.take(
        (102, EDGE_OPEN, 0, by_udp), (101, ToServer.INPUT, 2, b""), (102, ToServer.INPUT, 3, b"")
    )
    assert place.inputs_of == [("ann", 1), ("ann", 3)]
    assert 101 in place.closed
    await place.take((103, EDGE_OPEN, 0, stranger), (103, ToServer.INPUT, 4, b""))
    assert byes(place, 103) == ["no_session"]
    await place.take((ann, ToServer.LEAVE, 0, b""), (102, ToServer.INPUT, 5, b""))
    await place.take((102, ToServer.INPUT, 6, b""))
    assert place.inputs_of[-1] == ("ann", 5)
    assert 101 not in place.sent
    assert 102 not in place.sent
    assert place.sessions._told == {101, 102, 103, ann}
    await place.take(*[(connection, EDGE_CLOSE, 0, b"") for connection in (101, 102, 103, ann)])
    assert not place.sessions._told


async def test_a_server_whose_edge_has_died_does_not_live_on(tmp_path):
    class Dead(Place):
        def receive(self):
            raise OSError("a thread of the edge has died")

        def counters(self):
            return {"threads_died": 1}

    config = GameConfig()
    records = RecordFolder(tmp_path, 1)
    matches = Matches(DragRace, phases_of(DragRace, config), most=1, records=records)
    game = Game("game-1", config, matches, SimpleNamespace(), SimpleNamespace())
    game.sessions = Dead().sessions
    game.receive()
    game.receive()
    with pytest.raises(EdgeDied, match="a thread of the edge has died"):
        await game.broken
    with pytest.raises(EdgeDied, match="a thread of the edge has died"):
        await game.housekeep(SimpleNamespace(), SimpleNamespace())
