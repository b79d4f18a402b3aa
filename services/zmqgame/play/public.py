"""Under which addresses clients reach a game server: TCP by name, UDP by the IP address that tokens name."""

from __future__ import annotations

import socket
from typing import Final

from zmqgame_bus.config import Config
from zmqgame_bus.errors import ConfigError, Problem, StartError

from zmqgame.play.config import GameConfig

__all__ = ["check_public", "public_tcp", "public_udp"]

EVERYWHERE: Final = ("0.0.0.0", "[::]")


def check_public(config: Config) -> None:
    """Refuse a server that would send its clients to an address that nobody can connect to."""
    game = config.table(GameConfig)
    problems = []
    for key, address in (("listen", game.listen), ("udp", game.udp)):
        host, _, port = address.rpartition(":")
        why = ""
        if host in EVERYWHERE and not game.public_host:
            why = "is no address that a client could connect to: set game.public_host"
        elif key == "udp" and address and game.public_host and int(port) == 0:
            why = "needs a port of its own beside game.public_host: tokens name it"
        if why:
            path = f"game.{key}"
            problems.append(Problem(config.source(path), path, f'{path} = "{address}" {why}'))
    if bool(game.tls_certificate) != bool(game.tls_key):
        there, missing = ("certificate", "key") if game.tls_certificate else ("key", "certificate")
        path = f"game.tls_{there}"
        problems.append(Problem(config.source(path), path, f"{path} needs game.tls_{missing} beside it"))
    if problems:
        raise ConfigError(problems)


def public_tcp(bound: str, public_host: str) -> str:
    """What clients are told for the address that TCP is bound to."""
    return f"{public_host}:{bound.rpartition(':')[2]}" if public_host else bound


def public_udp(listen: str, public_host: str) -> str | None:
    """The IP address and port that tokens name instead of the bound one; a name is looked up."""
    if not listen or not public_host:
        return None
    host, _, port = listen.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    try:
        found = socket.getaddrinfo(public_host.strip("[]"), int(port), family, socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        raise StartError(
            f"game.public_host = {public_host} has no address: {error}",
            hint="tokens for UDP name an IP address: set one, or game.udp to nothing",
        ) from error
    address = found[0][4][0]
    return f"[{address}]:{port}" if family == socket.AF_INET6 else f"{address}:{port}"
