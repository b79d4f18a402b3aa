"""The client's decisions: any packets give what is to be handled or `Broken`, and what waits is bounded."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmqgame import limits, protocol
from zmqgame.play.rules import Refused
from zmqgame.protocol import ToClient
from zmqgame.resume import Broken, Message, Resume

WELCOME = {
    "session": "7",
    "login": "9",
    "resumed": False,
    "server": "game-1",
    "last_action": 0,
    "token": "t",
    "connect_token": "",
    "udp": "",
    "ping_ms": 10_000,
}


def welcomed():
    client = Resume()
    client.login("t")
    assert list(client.receive(ToClient.WELCOME, 0, orjson.dumps(WELCOME)))
    return client


def message(seq):
    return protocol.MESSAGE_HEAD.pack(1, 1, seq, 1) + b"hi"


VALUES = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=9) | st.just({}) | st.just([])
)
FIELDS = [*WELCOME, "reason", "again", "type", "error", "text"]
PAYLOADS = st.one_of(
    st.binary(max_size=60),
    st.dictionaries(st.sampled_from(FIELDS), VALUES).map(
        lambda changes: json.dumps(WELCOME | changes).encode()
    ),
    st.integers(1, 9).map(message),
)


@given(
    st.lists(st.tuples(st.sampled_from(list(ToClient)) | st.integers(0, 255), st.integers(0, 9), PAYLOADS))
)
def test_any_packets_are_handled_or_break_the_connection(packets):
    client, handled = welcomed(), []
    for kind, sequence, payload in packets:
        try:
            for received in client.receive(int(kind), sequence, payload):
                if isinstance(received, Message) and received.id.must_deliver:
                    handled.append(received.id)
        except Broken:
            client.login("t")
            list(client.receive(ToClient.WELCOME, 0, orjson.dumps(WELCOME | {"resumed": True})))
        if client.waiting < 9:
            client.act(b"{}")
        client.take()
    assert len(handled) == len(set(handled))
    protocol.read_login(client.login("t")[protocol.HEADER.size :])


def test_who_fails_to_handle_has_not_handled():
    client = welcomed()
    given_out = client.receive(ToClient.MESSAGE, 1, message(1))
    assert isinstance(next(given_out), Message)
    given_out.close()  # what a loop does whose body raises
    assert client.take() == []
    login = protocol.read_login(client.login("t")[protocol.HEADER.size :])
    assert (login.last_frame, login.cursor) == (0, [])


def test_actions_that_wait_are_bounded_in_number_and_size():
    client = Resume()
    for _ in range(limits.MAX_UNACKED_ACTIONS):
        client.act(b"{}")
    with pytest.raises(Refused, match="256 actions"):
        client.act(b"{}")
    with pytest.raises(Refused, match="4097 bytes is over 4096"):
        Resume().act(bytes(limits.MAX_ACTION_BYTES + 1))
    assert client.take() == []
