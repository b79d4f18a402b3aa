"""A game server tells clients an address that they can connect to, or it does not start."""

import pytest
from zmqgame.play.public import check_public, public_tcp, public_udp
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
    assert public_tcp("0.0.0.0:7611", "play.example.com") == "play.example.com:7611"
    assert public_tcp("127.0.0.1:7611", "") == "127.0.0.1:7611"
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
