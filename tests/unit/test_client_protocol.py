"""The bytes that CLIENT.md section 10 shows are those that the code reads and writes."""

import re
from pathlib import Path

import orjson
from zmqgame import protocol
from zmqgame.protocol import LENGTH, RawId, ToClient, ToServer

CLIENT_MD = Path(__file__).parents[2] / "services" / "CLIENT.md"


def rows():
    section = CLIENT_MD.read_text().split("## 10. Bytes")[1]
    found = re.findall(r"^\| (.*) \| `([0-9a-f ]+)` \|$", section, re.MULTILINE)
    return {name: bytes.fromhex(text) for name, text in found}


def test_the_bytes_of_the_document():
    shown = rows()
    ack = protocol.packet(ToServer.ACK, 7)
    head = protocol.MESSAGE_HEAD.pack(1, 2, 3, protocol.CONTENT_TEXT)
    expected = [
        ack,
        LENGTH.pack(len(ack)) + ack,
        protocol.packet(ToServer.ACTION, 1, orjson.dumps({"type": "ready"})),
        protocol.packet(ToServer.INPUT, 3, bytes([2, 0x0B, 0x0A])),
        protocol.packet(ToClient.MESSAGE, 9, head + b"hi"),
    ]
    assert list(shown.values()) == expected
    kind, sequence, payload = protocol.read_packet(expected[-1])
    assert (kind, sequence) == (0x42, 9)
    assert protocol.read_message(payload) == (RawId(1, 2, 3), protocol.CONTENT_TEXT, b"hi")


def test_the_document_names_every_kind():
    text = CLIENT_MD.read_text()
    for kind in ToServer:
        assert f"| {kind.value} | {kind.name.lower()} |" in text
    for kind in ToClient:
        assert f"| {kind.value:#x} | {kind.name.lower()} |" in text
