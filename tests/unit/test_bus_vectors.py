"""Golden bytes of every bus message: by the tables of PROTOCOL.md section 3, and by NodeCore."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from zmqgame_native import NodeCore, node_key

FOLDER = Path(__file__).parents[1] / "vectors" / "bus"
VECTORS = [vector for path in sorted(FOLDER.glob("*.json")) for vector in json.loads(path.read_text())]

COUNTS = {"counts": 7, "counts8": 8}
INTEGERS = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q"}
ID = "node_key u64, epoch u64, seq u64"
CLAIM = "login u64, request u64, player text"
SEND = "seq u64, low u64, deadline_ms u64, policy u8, {}, key text, payload bytes"
PING = "nonce u64, low u64"
MEMBERS = "request u64, members [group text, player text]"
# Kind: name, body, what flag bit 2 is called. Version 1.
KINDS = {
    0x01: (
        "hello",
        "version_min u16, version_max u16, node_key u64, epoch u64, connection u64, highest_hub_epoch u32,"
        " low u64, features u64, name text, roles [text]",
        "",
    ),
    0x02: ("send", SEND.format("player text"), "resend"),
    0x03: ("send_group", SEND.format("group text"), "resend"),
    0x04: ("broadcast", SEND.format("scope u8"), "resend"),
    0x05: ("request", "call u64, deadline_ms u32, service text, payload bytes", ""),
    0x06: ("reply", "call u64, ok bool, payload bytes", ""),
    0x07: ("cancel", "call u64", ""),
    0x08: ("login", f"claims [{CLAIM}]", ""),
    0x09: ("register", f"claims [{CLAIM}]", "last"),
    0x0A: ("logout", f"login u64, player text, cursor [{ID}]", ""),
    0x0B: ("ack", "acks [binding u64, up_to u32]", ""),
    0x0C: ("join", MEMBERS, "durable"),
    0x0D: ("leave", MEMBERS, "durable"),
    0x0E: ("subscribe", "topics u8", ""),
    0x0F: ("ping", PING, ""),
    0x10: ("pong", PING, ""),
    0x11: ("bye", "low u64", ""),
    0x12: ("query", "call u64, what u8, argument text", ""),
    0x41: (
        "welcome",
        "version u16, hub_epoch u32, heartbeat_ms u32, dead_ms u32, spread_ms u32, max_payload u32,"
        " window_messages u32, window_bytes u32, slots [first u16, last u16, hub text]",
        "",
    ),
    0x42: ("receipt", "receipts [seq u64, outcome u8, detail text]", ""),
    0x43: (
        "group_receipt",
        "seq u64, counts counts, omitted u32, entries [outcome u8, player text, detail text]",
        "last",
    ),
    0x44: ("bound", "bound [login u64, binding u64, request u64, player text]", ""),
    0x45: ("deliver", f"id ({ID}), policy u8, targets [binding u64, number u32], payload bytes", ""),
    0x46: ("logout_done", "login u64, player text", ""),
    0x47: ("drop", "login u64, player text, why text", ""),
    0x48: ("forget", f"binding u64, up_to ({ID}), player text", ""),
    0x49: ("presence", "events [event u8, name text, node text]", "snapshot"),
    0x4A: ("call", "call u64, deadline_ms u32, from text, service text, payload bytes", ""),
    0x4B: ("answer", "call u64, status u8, payload bytes", ""),
    0x4C: ("cancelled", "call u64", ""),
    0x4D: ("error", "code u16, text text", ""),
    0x4E: ("joined", "request u64, ok bool, detail text", ""),
}
# What version 2 says in another way, by the name of its vectors: name of the kind, body, flags.
LATER = "seq u64, low u64, deadline_ms u64, deliver_at_ms u64, player text, payload bytes"
SEND_FLAGS = {"resend": 0b100, "quiet": 0b1000, "trace": 0b1_0000}
KINDS_2 = {
    "send_latest_quiet": (0x02, SEND.format("player text"), SEND_FLAGS),
    "send_group_traced": (0x03, SEND.format("group text"), SEND_FLAGS),
    "send_later": (0x13, LATER, {"resend": 0b100, "trace": 0b1_0000}),
    "seen": (0x14, "deliveries [binding u64, number u32]", {}),
    "welcome_2": (0x41, KINDS[0x41][1] + ", features u64", {}),
    "receipt_2": (0x42, KINDS[0x42][1], {}),
    "group_receipt_2": (0x43, KINDS[0x43][1].replace("counts counts", "counts counts8"), {"last": 0b100}),
    "deliver_latest": (0x45, KINDS[0x45][1], {"trace": 0b1_0000}),
}
ALWAYS = {"group_receipt_2": 0b1000}
"""Flags that no field shows: eight counts."""


def fields_of(body: str) -> list[tuple[str, str]]:
    """Names and types; brackets hold a list's item, parentheses a group of fields."""
    found, depth, start = [], 0, 0
    for at, char in enumerate(body + ","):
        depth += (char in "[(") - (char in "])")
        if char == "," and depth == 0:
            name, _, kind = body[start:at].strip().partition(" ")
            found.append((name, kind))
            start = at + 1
    return found


class Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, size: int) -> bytes:
        assert size <= len(self.data)
        taken, self.data = self.data[:size], self.data[size:]
        return taken

    def value(self, kind: str) -> Any:
        if kind in INTEGERS:
            layout = "<" + INTEGERS[kind]
            (number,) = struct.unpack(layout, self.take(struct.calcsize(layout)))
            return str(number) if kind == "u64" else number
        if kind == "bool":
            return {0: False, 1: True}[self.value("u8")]
        if kind in COUNTS:
            return [self.value("u32") for _ in range(COUNTS[kind])]
        if kind[0] == "(":
            return {name: self.value(of) for name, of in fields_of(kind[1:-1])}
        count = self.value("u32")
        if kind[0] == "[":
            inner = kind[1:-1]
            return [self.value(inner if " " not in inner else f"({inner})") for _ in range(count)]
        data = self.take(count)
        return data.decode() if kind == "text" else data.hex()


def written(kind: str, value: Any) -> bytes:
    if kind in INTEGERS:
        return struct.pack("<" + INTEGERS[kind], int(value))
    if kind == "bool":
        return bytes([value])
    if kind in COUNTS:
        return struct.pack(f"<{COUNTS[kind]}I", *value)
    if kind[0] == "(":
        return b"".join(written(of, value[name]) for name, of in fields_of(kind[1:-1]))
    if kind[0] == "[":
        inner = kind[1:-1]
        item = inner if " " not in inner else f"({inner})"
        return struct.pack("<I", len(value)) + b"".join(written(item, each) for each in value)
    data = value.encode() if kind == "text" else bytes.fromhex(value)
    return struct.pack("<I", len(data)) + data


def test_every_kind_has_golden_bytes() -> None:
    named = {vector["name"] for vector in VECTORS}
    assert named == {name for name, _, _ in KINDS.values()} | set(KINDS_2)


@pytest.mark.parametrize("vector", [v for v in VECTORS if v["name"] in KINDS_2], ids=lambda v: v["name"])
def test_golden_bytes_of_version_2_say_what_the_tables_say(vector: dict[str, Any]) -> None:
    assert packed_2(vector["name"], vector["fields"]).hex() == vector["hex"]
    _, body, _ = KINDS_2[vector["name"]]
    reader = Reader(bytes.fromhex(vector["hex"])[8:])
    fields = {field: reader.value(of) for field, of in fields_of(body)}
    assert reader.data == b""
    assert fields.items() <= vector["fields"].items()


def packed_2(name: str, fields: dict[str, Any]) -> bytes:
    kind, body, marks = KINDS_2[name]
    flags = fields.get("content", 0) | ALWAYS.get(name, 0)
    flags |= sum(bit for field, bit in marks.items() if fields[field])
    data = b"".join(written(of, fields[field]) for field, of in fields_of(body))
    return struct.pack("<IBBH", len(data) + 8, kind, flags, 0) + data


@pytest.mark.parametrize("vector", [v for v in VECTORS if v["name"] not in KINDS_2], ids=lambda v: v["name"])
def test_golden_bytes_say_what_the_tables_say(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["hex"])
    length, kind, flags, zero = struct.unpack_from("<IBBH", data)
    name, body, mark = KINDS[kind]
    assert (length, zero, name) == (len(data), 0, vector["name"])
    reader = Reader(data[8:])
    fields = {field: reader.value(of) for field, of in fields_of(body)}
    assert reader.data == b""
    if mark:
        fields[mark] = bool(flags & 0b100)
    if "payload bytes" in body:
        fields["content"] = flags & 0b011
    assert fields == vector["fields"]
    again = b"".join(written(of, vector["fields"][field]) for field, of in fields_of(body))
    assert struct.pack("<IBBH", len(again) + 8, kind, flags, 0) + again == data


def golden(name: str) -> bytes:
    return bytes.fromhex(next(vector["hex"] for vector in VECTORS if vector["name"] == name))


def welcomed() -> NodeCore:
    node = NodeCore(0, "n", 7, 0, [])
    node.timeout(0, 0)
    node.receive(0, 0, [golden("welcome")])
    assert node.up
    node.events()
    return node


EVENTS = {
    "group_receipt": [],  # of a message that this node did not send
    "receipt": [],
    "bound": [],
    "deliver": [],
    "logout_done": [],
    "drop": [],
    "forget": [],
    "cancelled": [],
    "answer": [],
    "joined": [],
    "presence": [("presence", True, [(3, "alice", "game-1")])],
    "call": [("call", 1, "cli-lima-1", 250, "stats", 2, b"{}")],
}


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_a_node_reads_every_golden_message_of_a_hub(name: str) -> None:
    node = welcomed()
    node.receive(0, 0, [golden(name)])
    assert node.events() == EVENTS[name]
    assert node.counters()["violations"] == 0


def test_a_node_reads_receipts_bindings_and_deliveries_of_the_golden_bytes() -> None:
    node = welcomed()
    assert [node.unicast("alice", 1, b"one"), node.unicast("bob", 1, b"two")] == [1, 2]
    node.attach("zoe", 0, [])
    assert node.attach("alice", 0, []) is None  # its second request, as the golden `bound` answers
    node.receive(0, 0, [golden("receipt") + golden("bound"), golden("deliver")])
    names = [event[0] for event in node.events()]
    assert names == ["receipts", "bound", "deliveries"]
    assert node.login_of("alice") == 4294967297


def test_an_error_ends_the_node_and_garbage_ends_the_link() -> None:
    node = welcomed()
    node.receive(0, 0, [golden("error")])
    assert ("refused", 3, "epoch 1, the highest is 2") in node.events()
    assert node.next_timeout() is None
    node = welcomed()
    node.receive(0, 0, [b"garbage"])
    assert not node.up
    assert node.counters()["violations"] == 1


def test_a_node_writes_the_worked_example_of_the_protocol() -> None:
    text = (FOLDER.parents[2] / "bus" / "PROTOCOL.md").read_text()
    example = text[text.index("## 7.") : text.index("## 8.")]
    blocks = [
        bytes.fromhex("".join(line.split()[0] for line in block.splitlines() if line.startswith("    ")))
        for block in example.split("\n\n")
        if block.startswith("    ")
    ]
    hello, registration, bound, send, deliver, ack, receipt = blocks
    node = NodeCore(0, "n", 7, 0, [])
    node.timeout(0, 0)
    assert node.frame(0) == hello
    node.attach("p", 0, [])
    node.receive(0, 0, [golden("welcome")])
    # Its second request: the first had no link to go out on. Request numbers are the node's choice.
    second = struct.pack("<Q", 2)
    assert node.frame(0) == registration[:20] + second + registration[28:]
    node.receive(0, 0, [bound[:28] + second + bound[36:]])
    assert node.unicast("p", 1, b"hi") == 1
    assert node.frame(0) == send
    node.receive(0, 0, [deliver])
    node.handled("p", (node_key("n"), 7, 1))
    assert node.frame(0) == ack
    node.receive(0, 0, [receipt])
    assert node.events()[-1] == ("receipts", [(1, 1, "")])
