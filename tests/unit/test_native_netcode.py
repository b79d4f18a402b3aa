"""Connect tokens and the client's side of a UDP session, without sockets."""

import time

import pytest
from zmqgame_native import NETCODE_TOKEN_BYTES, NetcodeClient, netcode_connect_token

KEY = bytes(range(32))


def token(**changes):
    fields = {
        "protocol_id": 7,
        "expire_s": 30,
        "timeout_s": 5,
        "client_id": 1,
        "addresses": ["127.0.0.1:7612", "[::1]:7612"],
        "private_key": KEY,
        "user_data": b"data",
    }
    return netcode_connect_token(**{**fields, **changes})


def test_a_token_says_its_version_protocol_and_time():
    made = token()
    assert len(made) == NETCODE_TOKEN_BYTES
    assert made[:13] == b"NETCODE 1.02\0"
    assert int.from_bytes(made[13:21], "little") == 7
    created, expires = int.from_bytes(made[21:29], "little"), int.from_bytes(made[29:37], "little")
    assert abs(created - time.time()) < 60
    assert expires - created == 30


def test_no_two_tokens_are_alike():
    first, second = token(), token()
    assert first[37:61] != second[37:61]
    assert first[61:1085] != second[61:1085]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"private_key": b"short"}, "32 bytes, not 5"),
        ({"user_data": bytes(257)}, "at most 256 bytes, not 257"),
        ({"addresses": []}, "1 to 32 servers, not 0"),
        ({"addresses": ["127.0.0.1:1"] * 33}, "1 to 32 servers, not 33"),
        ({"addresses": ["localhost"]}, "not an address"),
    ],
)
def test_bad_fields_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        token(**changes)


def test_a_client_shows_its_token_until_a_server_answers():
    client = NetcodeClient(token())
    assert client.state == "disconnected"
    (request,) = client.poll(1000)
    assert (len(request), request[0], client.state) == (1078, 0, "requesting")
    assert client.poll(1050) == []
    assert client.poll_timeout() == 1100
    assert client.poll(1100) == [request]
    assert client.server == "127.0.0.1:7612"
    client.poll(6000)
    assert client.server == "[::1]:7612"
    client.poll(11_000)
    assert (client.state, client.poll_timeout()) == ("request timed out", None)


def test_noise_has_no_effect():
    client = NetcodeClient(token())
    client.poll(0)
    for noise in (b"", b"\x85", bytes(18), b"\x85" * 18, b"\xff" * 1300, bytes(5000)):
        assert client.handle_datagram(1, noise) == []
    assert client.state == "requesting"


def test_nothing_is_sent_before_the_session():
    client = NetcodeClient(token())
    with pytest.raises(ConnectionError, match="disconnected"):
        client.send(b"early")


def test_tokens_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="needs 2048 bytes and has 3"):
        NetcodeClient(b"abc")
    with pytest.raises(ValueError, match=r"not of netcode 1\.02"):
        NetcodeClient(bytes(2048))
    with pytest.raises(ValueError, match="expired at"):
        NetcodeClient(token(), int(time.time()) + 31)
