"""The configuration tables that every process shares. A service's own tables stand in its own package.

This module and the others of the entry point group ``zmqgame.config`` hold tables only: each process imports
all.
"""

from __future__ import annotations

from dataclasses import dataclass

from zmqgame_bus.limits import SPOOL_BYTES, SPOOL_BYTES_MIN
from zmqgame_bus.schema import key, table

__all__ = ["BusConfig", "EventsConfig", "HubConfig", "MailboxConfig", "MetricsConfig", "SecurityConfig"]


@table("bus")
@dataclass(frozen=True)
class BusConfig:
    """How a process reaches the hub."""

    hub: str = key("tcp://127.0.0.1:7600", unit="endpoint", help="The hub that nodes connect to.")
    transport: str = key(
        "auto",
        choices=("auto", "pyzmq", "native", "native-thread"),
        help="What carries a node's connection; auto is native for game servers, pyzmq for everyone else.",
        reason="All speak the same protocol; the native one has the shorter way (ARCHITECTURE.md).",
    )

    def transport_of(self, role: str) -> str:
        """The transport of a process of that role."""
        if self.transport != "auto":
            return self.transport
        return "native" if role == "game" else "pyzmq"


@table("events")
@dataclass(frozen=True)
class EventsConfig:
    """How a process hands its events to stats."""

    publish: str = key(
        "tcp://127.0.0.1:7601", unit="endpoint", help="Where stats listens; every process publishes there."
    )
    spool_dir: str = key(
        "",
        unit="folder",
        help="Where events wait until stats has committed them (default: events below --state-dir).",
    )
    spool_bytes: int = key(
        SPOOL_BYTES,
        unit="bytes",
        low=SPOOL_BYTES_MIN,
        high=1_099_511_627_776,
        reason="room for a few events in each of eight segments, and no more than a disk",
        help="How much may wait there; beyond it events are refused and counted.",
    )
    durability: str = key(
        "power",
        choices=("process", "power"),
        help="What a published event survives: the end of the process, or a loss of power (a sync a batch).",
    )


@table("metrics")
@dataclass(frozen=True)
class MetricsConfig:
    """Where a process shows what it counts."""

    listen: str = key(
        "127.0.0.1:0",
        unit="host:port or off",
        help="Where Prometheus asks for /metrics; port 0: any, named when the process is ready. Without "
        "encryption or passwords, so keep it on loopback or behind a proxy.",
    )


@table("security")
@dataclass(frozen=True)
class SecurityConfig:
    """Keys and secrets, as names of files; a bare name is also looked for among systemd's credentials."""

    curve: bool = key(
        False,
        help="Encrypt and authenticate the bus with CURVE; without it, listen on loopback addresses only.",
    )
    key_file: str = key("node.key", unit="file", help="This process's own CURVE key pair (`keys new NAME`).")
    hub_public_key_file: str = key("hub.pub", unit="file", help="The hub's public key, which nodes trust.")
    stats_public_key_file: str = key(
        "stats.pub", unit="file", help="The public key of stats, which publishers of events trust."
    )
    allowed_file: str = key(
        "allowed.keys",
        unit="file",
        help="Who may connect: public key, node name pattern and roles, one a line.",
    )
    token_secret_file: str = key(
        "token.secret", unit="file", help="The secret with which the manager signs players' tokens."
    )
    netcode_key_file: str = key(
        "netcode.key", unit="file", help="The key of the connect tokens for UDP, shared by manager and games."
    )


@table("hub")
@dataclass(frozen=True)
class HubConfig:
    """Where nodes connect, and how long the hub waits for whom."""

    listen: str = key("tcp://127.0.0.1:7600", unit="endpoint", help="Where nodes connect; port 0: any.")
    heartbeat_ms: int = key(
        1_000,
        unit="ms",
        low=50,
        high=60_000,
        reason="less is traffic without use, more hides a dead link for minutes",
        help="A link that is silent otherwise carries a sign of life this often.",
    )
    dead_ms: int = key(
        3_000,
        unit="ms",
        low=150,
        high=180_000,
        reason="three heartbeats at their limits",
        help="A link without a byte for so long is closed.",
    )
    node_grace_ms: int = key(
        5_000,
        unit="ms",
        low=0,
        high=600_000,
        reason="until then messages for its players wait in memory",
        help="A lost node keeps its players so long.",
    )
    hub_grace_ms: int = key(
        3_000,
        unit="ms",
        low=0,
        high=60_000,
        reason="until then messages for absent players have no receipt",
        help="After a start, nodes have so long to come back before their players count as offline.",
    )
    drain_ms: int = key(
        2_000,
        unit="ms",
        low=0,
        high=15_000,
        reason="a process has 20 s to end",
        help="After SIGTERM, receipts and answers have so long to go out.",
    )
    trace: bool = key(
        True,
        help="Emit the hops of stored, traced and sampled messages, and sums of all, as events "
        "(`zmqgame-cli trace`, `audit delivery`).",
    )


@table("mailbox")
@dataclass(frozen=True)
class MailboxConfig:
    """Where messages for absent players are kept."""

    url: str = key(
        "sqlite:mailbox.db",
        unit="mailbox",
        help="`sqlite:PATH`, relative to the state folder, or `mongodb://USER@HOST:PORT/DATABASE?replicaSet=SET`.",
    )
    password_file: str = key(
        "",
        help="The password of USER in `url`; a bare name is also looked for among systemd's credentials.",
    )
    durability: str = key(
        "power-loss",
        choices=("power-loss", "process-crash"),
        help="What a message that was confirmed as stored survives, in SQLite; MongoDB: always power-loss.",
    )
    max_bytes: int = key(
        16 << 30,
        unit="bytes",
        low=1 << 20,
        high=1 << 44,
        reason="less holds no message of the largest size, more no file system of today",
        help="Messages over this are refused, so that a disk is not filled by players that never come.",
    )
    player_messages: int = key(
        1_000,
        unit="messages",
        low=1,
        high=1_000_000,
        reason="a mailbox without room for a message is none; a million take minutes to read at a login",
        help="Messages that wait for one player, deferred ones included; a sender is refused beyond it.",
    )
    player_bytes: int = key(
        4 << 20,
        unit="bytes",
        low=1 << 20,
        high=1 << 32,
        reason="less holds no message of the largest size; 4 GiB for one player is no mailbox",
        help="Their payload.",
    )
    keep_days: int = key(
        30,
        unit="days",
        low=1,
        high=3_650,
        reason="a player may be away for a day; after ten years nobody waits",
        help="Messages without a deadline of their sender are kept so long.",
    )
    wait_s: int = key(
        10,
        unit="s",
        low=0,
        high=3_600,
        reason="a supervisor that waits longer than an hour is not watched",
        help="How long a starting hub waits for another process that holds the mailbox.",
    )
