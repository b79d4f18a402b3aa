"""tests/vectors/client: what CLIENT.md says, as bytes, for the client, the server and the edge.

Written once from CLIENT.md; a new version of the protocol adds entries and changes none.
"""

import json
import socket
import struct
import time
from pathlib import Path

import pytest
from zmqgame import protocol, resume
from zmqgame.play.rules import Refused
from zmqgame.protocol import ToClient, ToServer
from zmqgame.resume import Broken, Resume
from zmqgame_native import Edge

FOLDER = Path(__file__).parents[1] / "vectors" / "client"


def load(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def named(name):
    return [pytest.param(entry, id=entry["name"]) for entry in load(name)]


@pytest.mark.parametrize("entry", named("packets"))
def test_packets_are_what_both_ends_read_and_write(entry):
    kind, sequence, payload = entry["kind"], int(entry["sequence"]), bytes.fromhex(entry["payload"])
    packet = bytes.fromhex(entry["packet"])
    assert packet == struct.pack("<BBHQ", kind, 0, 0, sequence) + payload
    assert protocol.packet(kind, sequence, payload) == packet
    assert protocol.read_packet(packet) == (kind, sequence, payload)
    assert bytes.fromhex(entry["tcp"]) == protocol.LENGTH.pack(len(packet)) + packet


def test_there_is_a_packet_of_each_kind():
    sides = {"server": {*map(int, ToServer)}, "client": {*map(int, ToClient)}}
    for side, kinds in sides.items():
        assert {entry["kind"] for entry in load("packets") if entry["side"] == side} == kinds


def test_the_edge_takes_the_packets_and_refuses_the_others():
    edge = Edge()
    try:
        host, _, port = edge.listen_tcp("127.0.0.1:0").rpartition(":")
        entries = [entry for entry in load("packets") if entry["side"] == "server"]
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"".join(bytes.fromhex(entry["tcp"]) for entry in entries))
            rows = received(edge, 1 + len(entries))[1:]
        sent = [(each["kind"], int(each["sequence"]), bytes.fromhex(each["payload"])) for each in entries]
        assert [row[1:] for row in rows] == sent
        for entry in load("refused"):
            with socket.create_connection((host, int(port))) as client:
                client.settimeout(60)
                client.sendall(bytes.fromhex(entry["tcp"]))
                assert client.recv(1) == b"", entry["name"]
    finally:
        edge.stop(1_000)


def received(edge, count):
    rows, end = [], time.monotonic() + 60
    while len(rows) < count and time.monotonic() < end:
        edge.wait(100)
        rows += list(edge.receive())
    return rows


@pytest.mark.parametrize("entry", named("logins"))
def test_logins_mean_this_or_are_refused(entry):
    payload = bytes.fromhex(entry["payload"])
    if "error" in entry:
        with pytest.raises(Refused) as error:
            protocol.read_login(payload)
        assert error.value.kind == entry["error"]
        return
    login, fields = protocol.read_login(payload), entry["fields"]
    numbers = (login.session, login.login, login.last_frame, login.action)
    assert numbers == tuple(int(fields[name]) for name in ("session", "login", "last_frame", "action"))
    assert (login.token, login.cursor) == (fields["token"], [tuple(map(int, m)) for m in fields["cursor"]])
    assert protocol.read_login(login.dump()) == login


@pytest.mark.parametrize("entry", named("conversations"))
def test_a_client_answers_as_the_conversations_say(entry):
    client = Resume()
    for number, step in enumerate(entry["steps"]):
        sends, hands, broke = do(client, step)
        assert sends == [bytes.fromhex(packet) for packet in step["sends"]], number
        assert hands == step["hands"], number
        assert broke == step.get("breaks", False), number


def do(client, step):
    hands, broke = [], False
    match step["do"]:
        case "login":
            return [client.login(step["token"])], [], False
        case "lost":
            client.lost()
        case "act":
            client.act(bytes.fromhex(step["payload"]))
        case "leave":
            client.leave()
        case "packet":
            packet = protocol.read_packet(bytes.fromhex(step["packet"]))
            try:
                hands += [shown(received) for received in client.receive(*packet)]
            except Broken:
                broke = True
                client.lost()
    return client.take(), hands, broke


def shown(received):
    match received:
        case resume.Welcome(values=values):
            return {"welcome": {"resumed": values["resumed"], "server": values["server"]}}
        case resume.Message(id=message_id, content=content, payload=payload):
            return {
                "message": [str(each) for each in message_id],
                "content": content,
                "payload": payload.hex(),
            }
        case resume.Event(values=values):
            return {"event": values}
        case resume.Snapshot(values=values):
            return {"snapshot": values}
        case resume.ActionDone(number=number, error=error):
            return {"action_done": str(number), "error": error}
        case resume.Repeated(what=what):
            return {"repeated": what}
        case resume.Bye(reason=reason, again=again, server=server):
            return {"bye": reason, "again": again, "server": server}
