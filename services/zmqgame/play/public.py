"""Under which addresses clients reach a game server: TCP by name, UDP by the IP address that tokens name."""

from __future__ import annotations

import socket
from typing import Final
from urllib.parse import urlsplit

from zmqgame_bus.config import Config
from zmqgame_bus.errors import ConfigError, Problem, StartError

from zmqgame.play.config import GameConfig

__all__ = ["check_public", "public_streams", "public_udp"]

EVERYWHERE: Final = ("0.0.0.0", "[::]")
WS_PORTS: Final = {"ws": 80, "wss": 443}
MAX_WS_CHARACTERS: Final = 200  # the manager keeps 256 of an address


def check_public(config: Config) -> None:
    """Refuse a server that would send its clients to an address that nobody can connect to."""
    game = config.table(GameConfig)
    problems = []
    for key, address in (("listen", game.listen), ("udp", game.udp)):
        host, _, port = address.rpartition(":")
        why = ""
        if host in EVERYWHERE and not game.public_host and not (key == "listen" and game.public_ws):
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
    if why := _wrong_ws(game):
        path = "game.public_ws"
        problems.append(Problem(config.source(path), path, f'{path} = "{game.public_ws}" {why}'))
    if problems:
        raise ConfigError(problems)


def _wrong_ws(game: GameConfig) -> str:
    """Why clients could not connect to `public_ws`; "" if they could, or if there is none."""
    if not game.public_ws:
        return ""
    if len(game.public_ws) > MAX_WS_CHARACTERS or not game.public_ws.isascii() or " " in game.public_ws:
        return f"is no address: at most {MAX_WS_CHARACTERS} ASCII characters without spaces are"
    try:
        url = urlsplit(game.public_ws)
        port = url.port
    except ValueError as error:
        return f"is no address: {error}"
    if url.scheme not in WS_PORTS or not url.hostname or port == 0:
        return "is no address: ws://HOST[:PORT][/PATH] or wss://... is one"
    if url.username is not None or url.query or url.fragment:
        return "has a user, query or fragment: all clients get it as it is"
    if url.scheme == "ws" and game.tls_certificate:
        return "is without TLS, and game.tls_certificate lets the server speak nothing else"
    return ""


def public_streams(bound: str, game: GameConfig) -> dict[str, str]:
    """What clients are told as `tcp` and `ws` for the address that TCP is bound to."""
    if game.public_ws:
        url = urlsplit(game.public_ws)
        host = f"[{url.hostname}]" if ":" in str(url.hostname) else url.hostname
        return {"tcp": f"{host}:{url.port or WS_PORTS[url.scheme]}", "ws": game.public_ws}
    tcp = f"{game.public_host}:{bound.rpartition(':')[2]}" if game.public_host else bound
    return {"tcp": tcp, "ws": f"{'wss' if game.tls_certificate else 'ws'}://{tcp}"}


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
