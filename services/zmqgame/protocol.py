"""The client protocol of CLIENT.md as constants and small codecs, for both of its ends."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any, NamedTuple

import orjson

from zmqgame import limits
from zmqgame.play.rules import Json, Refused

HEADER = struct.Struct("<BBHQ")  # kind, flags, 0, sequence
LENGTH = struct.Struct("<I")  # before each packet on TCP
MESSAGE_HEAD = struct.Struct("<QQQB")  # id (node key, epoch, seq) and content, before a bus message's payload
ID = struct.Struct("<QQQ")
CONTENT_BYTES, CONTENT_TEXT, CONTENT_JSON = 0, 1, 2


class ToServer(IntEnum):
    """Packets of a client."""

    LOGIN = 1
    ACTION = 2
    INPUT = 3
    ACK = 4
    LEAVE = 5
    PING = 6


class ToClient(IntEnum):
    """Packets of a game server."""

    WELCOME = 0x41
    MESSAGE = 0x42
    EVENT = 0x43
    SNAPSHOT = 0x44
    ACTION_ACK = 0x45
    BYE = 0x46
    PONG = 0x47
    FORGET = 0x48


EDGE_OPEN, EDGE_CLOSE = 0xF0, 0xF1


class RawId(NamedTuple):
    """A bus message's id as a client sees it."""

    node_key: int
    epoch: int
    seq: int

    @property
    def must_deliver(self) -> bool:
        """Whether it is acked and in the cursor; not so for the policies `latest` and `droppable`."""
        return not self.seq >> 63

    def __str__(self) -> str:
        return f"{self.node_key:#018x}/{self.epoch}/{self.seq}"


class Cursor:
    """The last handled message id of each sender: what a client brings to every server."""

    def __init__(self, marks: Iterable[tuple[int, int, int]] = ()) -> None:
        self._marks: dict[int, tuple[int, int]] = {}
        for node_key, epoch, seq in marks:
            self.handle(RawId(node_key, epoch, seq))

    def seen(self, message_id: RawId) -> bool:
        """Whether this message was handled already."""
        mark = self._marks.get(message_id.node_key)
        return mark is not None and (message_id.epoch, message_id.seq) <= mark

    def handle(self, message_id: RawId) -> None:
        """This message, and all before it of its sender, are handled."""
        if not self.seen(message_id):
            self._marks[message_id.node_key] = (message_id.epoch, message_id.seq)

    def forget(self, up_to: RawId) -> None:
        """The bus will not send this or anything before it again: a mark no newer than it may go."""
        mark = self._marks.get(up_to.node_key)
        if mark is not None and mark <= (up_to.epoch, up_to.seq):
            del self._marks[up_to.node_key]

    def marks(self) -> list[tuple[int, int, int]]:
        """As a list of (node key, epoch, seq)."""
        return [(node_key, epoch, seq) for node_key, (epoch, seq) in sorted(self._marks.items())]

    def __len__(self) -> int:
        return len(self._marks)


def packet(kind: int, sequence: int, payload: bytes = b"") -> bytes:
    """One packet without its transport's framing."""
    return HEADER.pack(kind, 0, 0, sequence) + payload


def read_packet(data: bytes) -> tuple[int, int, bytes]:
    """Kind, sequence and payload of a packet."""
    if len(data) < HEADER.size:
        raise Refused("malformed", f"a packet of {len(data)} bytes has no header")
    kind, _, _, sequence = HEADER.unpack_from(data)
    return kind, sequence, bytes(data[HEADER.size :])


def read_message(payload: bytes) -> tuple[RawId, int, bytes]:
    """Id, content and payload of a bus message (kind 0x42)."""
    if len(payload) < MESSAGE_HEAD.size:
        raise Refused("malformed", "a message without its id")
    node_key, epoch, seq, content = MESSAGE_HEAD.unpack_from(payload)
    return RawId(node_key, epoch, seq), content, payload[MESSAGE_HEAD.size :]


def read_id(payload: bytes) -> RawId:
    """The message id that a forget (kind 0x48) is."""
    if len(payload) != ID.size:
        raise Refused("malformed", f"an id of {len(payload)} bytes, {ID.size} it has")
    return RawId(*ID.unpack(payload))


def decode_payload(content: int, payload: bytes) -> Json:
    """The payload as its content says: bytes, str, or what JSON holds."""
    if content == CONTENT_JSON:
        return orjson.loads(payload)
    return payload.decode() if content == CONTENT_TEXT else payload


class Login(NamedTuple):
    """A login packet's content."""

    token: str
    session: int  # 0: a new client
    login: int  # 0: none known
    last_frame: int
    cursor: list[tuple[int, int, int]]
    action: int = 0  # the last action number that was acked, at whatever server

    def dump(self) -> bytes:
        """As JSON; numbers of 64 bits as strings."""
        return orjson.dumps(
            {
                "token": self.token,
                "session": str(self.session),
                "login": str(self.login),
                "last_frame": self.last_frame,
                "action": self.action,
                "cursor": [[str(number) for number in mark] for mark in self.cursor],
            }
        )


def read_login(payload: bytes) -> Login:
    """A login packet; raises `Refused` for anything else."""
    values = read_object(payload, limits.MAX_LOGIN_BYTES)
    cursor = values.get("cursor", [])
    if not isinstance(cursor, list):
        raise Refused("malformed", "cursor: a list")
    if len(cursor) > limits.MAX_CURSOR_ENTRIES:
        raise Refused("limit", f"cursor: {len(cursor)} entries are over {limits.MAX_CURSOR_ENTRIES}")
    try:
        marks = [(u64(node_key), u64(epoch), u64(seq)) for node_key, epoch, seq in cursor]
        token = values["token"]
        if not isinstance(token, str):
            raise Refused("malformed", "token: a string")
        return Login(
            token,
            u64(values.get("session", 0)),
            u64(values.get("login", 0)),
            u64(values.get("last_frame", 0)),
            marks,
            u64(values.get("action", 0)),
        )
    except (KeyError, ValueError, TypeError) as error:
        if isinstance(error, Refused):
            raise
        raise Refused("malformed", f"login: {type(error).__name__} {error}"[:200]) from error


def read_object(payload: bytes, limit: int) -> Mapping[str, Any]:
    """A JSON object of at most `limit` bytes."""
    if len(payload) > limit:
        raise Refused("limit", f"{len(payload)} bytes are over {limit}")
    try:
        values = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise Refused("malformed", "not JSON") from error
    if not isinstance(values, dict):
        raise Refused("malformed", "not an object")
    return values


def u64(value: object) -> int:
    """A number of 64 bits that may come as a string of digits."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 64:
        raise Refused("malformed", "a number of 64 bits")
    return value
