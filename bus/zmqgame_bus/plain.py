"""What may travel without keys: only what never leaves the machine."""

from __future__ import annotations

import ipaddress

from zmqgame_bus.errors import StartError

__all__ = ["PlainNotLoopback", "refuse_plain"]


class PlainNotLoopback(StartError):
    """Events would leave this machine in clear."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(
            f"{endpoint} is not on loopback, and no keys are configured: events would travel in clear, and "
            "anybody could send some",
            hint="set security.curve and make keys (zmqgame-cli keys new), or use a 127.0.0.1 address",
        )
        self.endpoint = endpoint


def refuse_plain(endpoint: str) -> None:
    """Raise PlainNotLoopback unless only this machine can reach the endpoint."""
    scheme, _, rest = endpoint.partition("://")
    if scheme in ("ipc", "inproc"):
        return
    host = rest.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return
    try:
        if ipaddress.ip_address(host).is_loopback:
            return
    except ValueError:
        pass
    raise PlainNotLoopback(endpoint)
