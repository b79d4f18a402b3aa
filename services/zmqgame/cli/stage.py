"""Where a whole backend stands on one machine: a folder, a configuration, keys, and what to start in which
order.

`up` takes the default addresses, `demo` and tests take free ports. Either way they are settled before the
start, so a service that is killed comes back at the same address.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from zmqgame_bus.errors import AlreadyRunning, StartError
from zmqgame_bus.folders import prepare
from zmqgame_bus.keys import new_secret

from zmqgame.cli.supervise import Spec, program

__all__ = ["Addresses", "Stage", "free_addresses"]

PORTS: Final = range(20_000, 32_000)
"""Below the range from which the kernel takes ports for outgoing connections: no client sits on a port of
ours while a killed service is on its way back."""

TRIES: Final = 200
"""Ports tried before giving up: a machine with so many of 12,000 taken has another problem."""


@dataclass(frozen=True)
class Addresses:
    """Where everything listens. A game has a (TCP and WebSocket, UDP) pair of host:port."""

    hub: str = "tcp://127.0.0.1:7600"
    events: str = "tcp://127.0.0.1:7601"
    metrics: Mapping[str, str] = field(default_factory=dict)
    """Where a service shows what it counts, by its name; those that are not in it take any port."""
    games: Mapping[str, tuple[str, str]] = field(
        default_factory=lambda: {
            "game-1": ("127.0.0.1:7611", "127.0.0.1:7612"),
            "game-2": ("127.0.0.1:7621", "127.0.0.1:7622"),
        }
    )


def free_addresses(games: Iterable[str]) -> Addresses:
    """Addresses on loopback that nobody has."""
    names = list(games)
    ports = _free_ports(2 + 2 * len(names))
    pairs = zip(ports[2::2], ports[3::2], strict=True)
    return Addresses(
        hub=f"tcp://127.0.0.1:{ports[0]}",
        events=f"tcp://127.0.0.1:{ports[1]}",
        games={
            name: (f"127.0.0.1:{tcp}", f"127.0.0.1:{udp}")
            for name, (tcp, udp) in zip(names, pairs, strict=True)
        },
    )


_held: Final[list[socket.socket]] = []


def _free_ports(count: int) -> list[int]:
    """Ports that stay ours until this process ends: another one that looks for ports finds them taken.

    A server may still listen there: it sets SO_REUSEADDR, as the holder does once it has the port.
    """
    found: list[int] = []
    for port in random.sample(PORTS, TRIES):
        holder = socket.socket()
        try:
            with socket.socket(type=socket.SOCK_DGRAM) as udp:
                holder.bind(("127.0.0.1", port))
                udp.bind(("127.0.0.1", port))
        except OSError:
            holder.close()
            continue
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _held.append(holder)
        found.append(port)
        if len(found) == count:
            return found
    raise StartError(f"no {count} free ports among {TRIES} tried from {PORTS.start} to {PORTS.stop}")


class Stage:
    """The folder of a backend.

    ``settings`` are written to its configuration, over what follows from addresses.
    """

    def __init__(
        self,
        folder: Path,
        addresses: Addresses,
        *,
        settings: Mapping[str, Mapping[str, object]] | None = None,
        commands: Mapping[str, Sequence[str]] | None = None,
        extra: Sequence[str] = (),
        option: str = "--dir",
    ) -> None:
        self.folder = prepare(folder, option=option).resolve()
        self.addresses = addresses
        self.config = self.folder / "zmqgame.toml"
        self.spools = self.folder / "spool"
        self.logs = self.folder / "logs"
        self.bot_logs = self.folder / "bots" / "handled"
        self.mailbox = self.folder / "hub" / "mailbox.db"
        self._settings = settings or {}
        self._commands = commands or {}
        self._extra = list(extra)

    def prepare(self) -> None:
        """Write configuration and secrets; secrets of an earlier run stay."""
        self._lock()
        tables: dict[str, dict[str, object]] = {}
        for path, value in self._settled().items():
            table, _, name = path.partition(".")
            tables.setdefault(table, {})[name] = value
        for name, values in self._settings.items():
            tables[name] = {**values, **tables.get(name, {})}
        lines = [
            "# Written by zmqgame-cli for this folder; every key is explained by: zmqgame-cli config docs"
        ]
        for name, values in tables.items():
            lines += ["", f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in values.items())]
        self.config.write_text("\n".join(lines) + "\n")
        for name in ("token.secret", "netcode.key"):
            if not (self.folder / name).exists():
                new_secret(self.folder / name)

    def _settled(self) -> dict[str, str]:
        """Where everybody finds the others: not for the environment, nor a user's file, to change."""
        return {
            "bus.hub": self.addresses.hub,
            "hub.listen": self.addresses.hub,
            "mailbox.url": f"sqlite:{self.mailbox}",
            "events.publish": self.addresses.events,
            "events.spool_dir": str(self.spools),
            "stats.listen": self.addresses.events,
        }

    def _lock(self) -> None:
        """One backend a folder, for as long as this process lives: a second one would write the first one's
        configuration anew.
        """
        self._lock_fd = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock_fd, 20, 0).decode(errors="replace") or "unknown"
            os.close(self._lock_fd)
            raise AlreadyRunning(
                f"{self.folder} is in use by another zmqgame-cli (pid {holder})",
                hint="stop it, or choose another folder",
            ) from None
        os.ftruncate(self._lock_fd, 0)
        os.pwrite(self._lock_fd, str(os.getpid()).encode(), 0)

    def hub(self) -> Spec:
        """The hub: everybody else needs it."""
        return self._spec("hub", "zmqgame-hub")

    def stats(self) -> Spec:
        """Stats: opens ClickHouse, which takes longest."""
        return self._spec("stats", "zmqgame-stats")

    def manager(self) -> Spec:
        """The manager."""
        return self._spec("manager", "zmqgame-manager")

    def games(self) -> list[Spec]:
        """The game servers."""
        return [
            self._spec(
                name, "zmqgame-game", f"--name={name}", f"--set=game.listen={tcp}", f"--set=game.udp={udp}"
            )
            for name, (tcp, udp) in self.addresses.games.items()
        ]

    def bots(self, players: int, prefix: str) -> Spec:
        """Players made of software."""
        words = [
            f"--set=bots.count={players}",
            f"--set=bots.prefix={prefix}",
            f"--set=bots.log_dir={self.bot_logs}",
        ]
        return self._spec("bots", "zmqgame.play.bots", *words)

    def _spec(self, name: str, what: str, *words: str) -> Spec:
        command = list(self._commands.get(name) or program(what))
        flags = [f"--config={self.config}", f"--state-dir={self.folder / name}"]
        flags += [f"--set={path}={value}" for path, value in self._settled().items()]
        if name in self.addresses.metrics:
            flags.append(f"--set=metrics.listen={self.addresses.metrics[name]}")
        return Spec(name, [*command, *flags, *self._extra, *words])


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
