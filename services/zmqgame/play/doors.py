"""A game server's ways in: the edge with the limits and the TLS of the configuration, and its addresses."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from zmqgame_bus.errors import StartError, binding
from zmqgame_bus.keys import Keyring
from zmqgame_native import Edge

from zmqgame import limits, tokens
from zmqgame.play.config import GameConfig
from zmqgame.play.public import public_streams, public_udp

__all__ = ["Doors", "open_doors"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Doors:
    """The edge, where clients find it (`tcp`, `ws` and `udp`), and the address it listens on for streams."""

    edge: Edge
    addresses: dict[str, str]
    bound: str

    def reload_tls(self) -> None:
        """Take new certificates for connections that come from now on; what can't be read changes nothing."""
        try:
            self.edge.reload_tls()
        except OSError as error:
            log.error("the certificate stays as it was: %s", error)
        else:
            log.info("certificate and key read again")


def open_doors(config: GameConfig, keyring: Keyring) -> Doors:
    """Listen as the configuration says."""
    edge = Edge(
        max_connections=config.max_players * 3 + 1_024,
        max_connections_per_address=config.max_connections_per_address,
        max_outbound_bytes=limits.EDGE_OUTBOUND_BYTES,
        max_inbound_bytes=limits.EDGE_INBOUND_BYTES,
        packets_per_s=config.packets_per_s,
        packets_burst=config.packets_per_s * limits.EDGE_PACKETS_BURST_S,
        bytes_per_s=config.bytes_per_s,
        bytes_burst=config.bytes_per_s * limits.EDGE_BYTES_BURST_S,
    )
    bound = _listen_streams(edge, config, keyring)
    udp, told = "", public_udp(config.udp, config.public_host)
    if config.udp:
        with binding(f"udp://{config.udp}", key="game.udp"):
            udp = edge.listen_udp(
                config.udp,
                protocol_id=tokens.PROTOCOL_ID,
                private_key=keyring.netcode_key(),
                public_address=told,
            )
    return Doors(edge, {**public_streams(bound, config), "udp": told or udp}, bound)


def _listen_streams(edge: Edge, config: GameConfig, keyring: Keyring) -> str:
    """TCP and WebSocket, both by TLS or neither; returns the address."""
    tls = None
    if config.tls_certificate:
        tls = keyring.locate(config.tls_certificate), keyring.locate(config.tls_key)
        for key, path in zip(("certificate", "key"), tls, strict=True):
            try:
                path.read_bytes()
            except OSError as error:
                raise StartError(f"game.tls_{key} = {path} can't be read: {error.strerror}") from error
    if config.proxies and not config.proxy_protocol:
        raise StartError(
            "game.proxies names proxies, and game.proxy_protocol is false",
            hint="with game.proxy_protocol = true their connections begin with a PROXY header",
        )
    proxies = config.proxies or config.proxy_protocol
    try:
        with binding(config.listen, key="game.listen"):
            bound = edge.listen_tcp(config.listen, tls=tls, proxy_protocol=proxies)
    except ValueError as error:
        raise StartError(f"game.proxies: {error}") from error
    except OSError as error:
        if tls is None:
            raise
        raise StartError(
            f"game.listen = {config.listen} can't be served by TLS: {error}",
            hint="game.tls_certificate is a PEM chain, the server's first, game.tls_key its private key",
        ) from error
    return bound
