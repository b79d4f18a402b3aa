"""What systemd wants to hear from a service of Type=notify, and what it gives to one.

A notification is one datagram to the socket named in NOTIFY_SOCKET (sd_notify(3)); a leading ``@`` means the
abstract namespace. Without the variable everything here does nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from zmqgame_bus.limits import NOTIFY_STATUS_BYTES, NOTIFY_WAIT_S

__all__ = ["Notifier", "credentials_dir", "state_dir"]


class Notifier:
    """The socket to the service manager; ``watchdog_s`` is how often it wants a sign of life, if at all."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._socket: socket.socket | None = None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._address = "\0" + address[1:] if address[0] == "@" else address
        self.watchdog_s = _watchdog_s(environ) if address else None

    @property
    def managed(self) -> bool:
        """Whether a service manager has started this process and listens."""
        return self._socket is not None

    def ready(self, status: str) -> None:
        """The service is up."""
        self._send(f"READY=1\nSTATUS={_line(status)}\nMAINPID={os.getpid()}", wait_s=NOTIFY_WAIT_S)

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={_line(text)}")

    def stopping(self, status: str) -> None:
        """The service drains and will end."""
        self._send(f"STOPPING=1\nSTATUS={_line(status)}", wait_s=NOTIFY_WAIT_S)

    def watchdog(self) -> None:
        """A sign of life."""
        self._send("WATCHDOG=1")

    def close(self) -> None:
        """Forget the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, text: str, wait_s: float = 0.0) -> None:
        """A full queue of the manager may delay what it waits for, but no status text or sign of life."""
        if self._socket is None:
            return
        self._socket.settimeout(wait_s)
        try:
            self._socket.sendto(text.encode(), self._address)
        except OSError:
            return  # the manager is gone or busy; the service goes on


def credentials_dir(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Where LoadCredential put the keys, if it did."""
    value = environ.get("CREDENTIALS_DIRECTORY")
    return Path(value) if value else None


def state_dir(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The first folder of StateDirectory."""
    value = environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(value) if value else None


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    """The interval, if it is meant for this process (WATCHDOG_PID)."""
    micros, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not micros.isdigit() or int(micros) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(micros) / 1e6


def _line(text: str) -> str:
    return text.replace("\n", " ").encode()[:NOTIFY_STATUS_BYTES].decode(errors="ignore")
