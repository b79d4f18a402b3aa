"""A game server tells clients an address that they can connect to, or it does not start."""

import pytest
from zmqgame.play.config import GameConfig
from zmqgame.play.public import check_public, public_streams, public_udp
from zmqgame_bus.config import load
from zmqgame_bus.errors import ConfigError, StartError


def config(listen, udp, host=""):
    return load(environ={}, flags={"game.listen": listen, "game.udp": udp, "game.public_host": host})


@pytest.mark.parametrize(
    ("listen", "udp", "host", "problems"),
    [
        ("0.0.0.0:7611", "", "", ["game.listen"]),
        ("[::]:7611", "0.0.0.0:7612", "", ["game.listen", "game.udp"]),
        ("127.0.0.1:7611", "0.0.0.0:7612", "", ["game.udp"]),
        ("0.0.0.0:7611", "0.0.0.0:0", "192.0.2.1", ["game.udp"]),
        ("0.0.0.0:7611", "0.0.0.0:7612", "192.0.2.1", []),
        ("127.0.0.1:0", "127.0.0.1:0", "", []),
    ],
)
def test_nobody_is_sent_to_all_addresses(listen, udp, host, problems):
    if not problems:
        check_public(config(listen, udp, host))
        return
    with pytest.raises(ConfigError) as caught:
        check_public(config(listen, udp, host))
    assert [problem.key for problem in caught.value.problems] == problems
    assert str(caught.value).startswith(f"--set {problems[0]}: {problems[0]} = ")


def test_clients_hear_the_public_host_and_tokens_its_address():
    told = public_streams("0.0.0.0:7611", GameConfig(public_host="play.example.com"))
    assert told == {"tcp": "play.example.com:7611", "ws": "ws://play.example.com:7611"}
    told = public_streams("127.0.0.1:7611", GameConfig(tls_certificate="some.pem"))
    assert told == {"tcp": "127.0.0.1:7611", "ws": "wss://127.0.0.1:7611"}
    assert public_udp("0.0.0.0:7612", "localhost") == "127.0.0.1:7612"
    assert public_udp("[::]:7612", "[::1]") == "[::1]:7612"
    assert public_udp("127.0.0.1:7612", "") is None
    assert public_udp("", "localhost") is None


def test_a_public_host_without_an_address_is_named():
    with pytest.raises(StartError, match=r"game.public_host = no..dots has no address"):
        public_udp("0.0.0.0:7612", "no..dots")


@pytest.mark.parametrize("given", ["certificate", "key"])
def test_a_certificate_without_its_key_is_refused(given):
    with pytest.raises(ConfigError) as caught:
        check_public(load(environ={}, flags={f"game.tls_{given}": "some.pem"}))
    assert [problem.key for problem in caught.value.problems] == [f"game.tls_{given}"]


@pytest.mark.parametrize(
    ("address", "tcp"),
    [
        ("wss://play.example.com", "play.example.com:443"),
        ("wss://play.example.com:8443/game-1", "play.example.com:8443"),
        ("ws://[2001:db8::1]/game-1", "[2001:db8::1]:80"),
    ],
)
def test_clients_hear_the_address_of_the_proxy(address, tcp):
    settings = {"game.listen": "0.0.0.0:7611", "game.udp": "", "game.public_ws": address}
    made = load(environ={}, flags=settings)
    check_public(made)
    assert public_streams("0.0.0.0:7611", made.table(GameConfig)) == {"tcp": tcp, "ws": address}


@pytest.mark.parametrize(
    "address",
    [
        "play.example.com",
        "https://play.example.com",
        "wss://",
        "wss://:443",
        "wss://play.example.com:0",
        "wss://play.example.com:65536",
        "wss://play.example.com:x",
        "wss://ann:secret@play.example.com",
        "wss://play.example.com/?token=1",
        "wss://play.example.com/#here",
        "wss://play .example.com",
        "wss://[::1",
        "wss://" + "x" * 200,
    ],
)
def test_an_address_that_clients_can_not_use_is_refused(address):
    with pytest.raises(ConfigError) as caught:
        check_public(load(environ={}, flags={"game.public_ws": address}))
    assert [problem.key for problem in caught.value.problems] == ["game.public_ws"]


def test_clients_are_not_told_to_speak_plainly_to_a_server_of_tls():
    settings = {"game.public_ws": "ws://play.example.com", "game.tls_certificate": "a", "game.tls_key": "b"}
    with pytest.raises(ConfigError, match="without TLS"):
        check_public(load(environ={}, flags=settings))
