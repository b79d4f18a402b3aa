"""What can go wrong, as one tree.

::

    ZmqgameError                    everything that we raise on purpose
    ├── ConfigError                 a key, a value or a file of the configuration: file, line, key, value,
    limit
    ├── KeyFileError                a key file is missing, malformed or readable by others
    ├── StartError                  the process can't start here, though its configuration is right
    │   ├── AddressInUse            names the process that holds the address
    │   ├── AddressRefused          not ours to bind (no such interface, privileged port)
    │   ├── FolderNotUsable         not a folder, or not writable
    │   ├── DiskFull                nothing can be written below a folder
    │   ├── AlreadyRunning          another process holds what only one may hold (store, chDB path, name)
    │   └── StoreDamaged            the disk has changed what the mailbox had confirmed
    ├── Replaced                    another process took our place; starting again would only fight it
    ├── StoreUnavailable            the mailbox committed nothing, or nobody knows: confirm nothing
    └── BusError                    a call on the bus
        ├── CannotReachHub          no hub answered in the time given
        ├── Refused                 the hub closed the connection and said why
        │   └── Superseded          a newer process of this node's name is on the bus
        ├── NotSupportedByHub       the hub on the other side is of an older version, without that feature
        ├── WindowFull              too many messages wait for their receipts, and this call does not wait
        ├── AddressLost             an address of this node is hosted elsewhere by a newer login
        └── RequestError            a request to a service
            ├── NoSuchService       no node serves it
            ├── RequestFailed       the handler of the service raised
            ├── RequestUnknown      the node or link died: it may or may not have been carried out
            └── DeadlineExceeded    no answer before the deadline

Each carries a ``hint``: what the reader can do about it. ``explain`` turns an ``OSError`` met while starting
into one of ours.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from zmqgame_bus import ports

__all__ = [
    "AddressInUse",
    "AddressLost",
    "AddressRefused",
    "AlreadyRunning",
    "BusError",
    "CannotReachHub",
    "ConfigError",
    "DeadlineExceeded",
    "DiskFull",
    "FolderNotUsable",
    "KeyFileError",
    "NoSuchService",
    "NotSupportedByHub",
    "Problem",
    "Refused",
    "Replaced",
    "RequestError",
    "RequestFailed",
    "RequestUnknown",
    "StartError",
    "StoreDamaged",
    "StoreUnavailable",
    "Superseded",
    "WindowFull",
    "ZmqgameError",
    "binding",
    "explain",
]


class ZmqgameError(Exception):
    """Base of all errors raised on purpose; ``hint`` says what the reader can do."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def report(self) -> str:
        """The error as a terminal shows it: one line, and the hint below it."""
        text = f"error: {self}"
        return f"{text}\n  {self.hint}" if self.hint else text


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a configuration."""

    where: str
    """``game.toml:14``, ``environment ZMQGAME_HUB_LISTEN`` or ``--set hub.listen``."""
    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


class ConfigError(ZmqgameError):
    """The configuration can't be used; ``problems`` lists every reason, not only the first."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems

    def report(self) -> str:
        """Every problem on its own line, as compilers print them."""
        return "\n".join(f"error: {problem}" for problem in self.problems)


class KeyFileError(ZmqgameError):
    """A key file is missing, malformed or open to others."""


class StartError(ZmqgameError):
    """The process can't start on this machine in this moment."""


class AddressInUse(StartError):
    """Somebody else listens there."""


class AddressRefused(StartError):
    """The address is not ours to bind."""


class FolderNotUsable(StartError):
    """A folder that must be writable is not."""


class DiskFull(StartError):
    """Nothing can be written."""


class AlreadyRunning(StartError):
    """Another process holds what only one may hold."""


class StoreDamaged(StartError):
    """The disk has changed what was confirmed: nobody may go on without knowing."""


class Replaced(ZmqgameError):
    """Another process took our place; a supervisor should not start this one again by itself."""


class StoreUnavailable(ZmqgameError):
    """The mailbox committed nothing, or the outcome is unknown: nothing may be confirmed."""


class BusError(ZmqgameError):
    """A call on the bus failed."""


class CannotReachHub(BusError):
    """No hub answered in the time given."""


class Refused(BusError):
    """The hub closed the connection and said why."""


class Superseded(Refused):
    """A newer process of this node's name is on the bus; starting again would only fight it."""


class NotSupportedByHub(BusError):
    """The hub can't do what a message asks for: nothing was sent.

    `feature` is `policy`, `deadline` (ttl_s) or `deferred` (deliver_at); `version`
    is the protocol version that the hub speaks with this node, 0 unknown.
    """

    def __init__(self, feature: str, version: int) -> None:
        spoken = f"version {version}" if version else "an older version"
        super().__init__(
            f"the hub does not support: {feature} (it speaks {spoken} of the protocol)",
            hint="hubs are replaced before nodes: install the new version on the hub's machine too",
        )
        self.feature, self.version = feature, version


class WindowFull(BusError):
    """Too many messages wait for their receipts; a call that waits for room is `unicast`."""


class AddressLost(BusError):
    """An address of this node is hosted elsewhere now, by a newer login."""


class RequestError(BusError):
    """A request to a service has no reply."""


class NoSuchService(RequestError):
    """No node serves it."""


class RequestFailed(RequestError):
    """The service's handler raised."""


class RequestUnknown(RequestError):
    """It may or may not have been carried out."""


class DeadlineExceeded(RequestError):
    """No answer before the deadline."""


def explain(error: OSError, what: str, *, hint: str = "", option: str = "--state-dir") -> StartError | None:
    """The ``StartError`` that says what ``error`` means for ``what`` (an address or a path), if there is
    one; ``option`` is the flag that chooses another folder.
    """
    if error.errno == errno.EADDRINUSE:
        return AddressInUse(f"{_in_use(what)}", hint=hint or "stop it, or choose another address")
    if error.errno in (errno.EADDRNOTAVAIL, errno.ENODEV):
        return AddressRefused(f"{what} is not an address of this machine", hint=hint)
    if error.errno == errno.EACCES and "://" in what:
        return AddressRefused(
            f"{what} may not be bound by this user (ports below 1024 need privileges)", hint=hint
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"no space left to write {what}", hint=hint or f"free some space, or use {option}")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return FolderNotUsable(
            f"{what} is not writable by this user", hint=hint or f"change its owner, or use {option}"
        )
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return FolderNotUsable(f"{what} is not a folder", hint=hint or f"move it away, or use {option}")
    return None


@contextmanager
def binding(address: str, *, key: str = "") -> Iterator[None]:
    """Turn a failed bind of ``address`` (taken from configuration ``key``) into an error that says what to
    do.

    Covers ``OSError`` and pyzmq's ``ZMQError``, which carries an errno too.
    """
    try:
        yield
    except Exception as error:
        number = _errno_of(error)
        if number is None:
            raise
        hint = f"stop it, or choose another: --set {key}=…" if key and number == errno.EADDRINUSE else ""
        ours = explain(OSError(number, str(error)), address, hint=hint)
        if ours is None:
            raise
        raise ours from error


def _errno_of(error: Exception) -> int | None:
    """The number of an operating system error, also of one that the native module passes on as text."""
    number: int | None = getattr(error, "errno", None)
    said = re.search(r"\(os error (\d+)\)", str(error)) if number is None else None
    return int(said[1]) if said else number


def _in_use(address: str) -> str:
    host, port = ports.split(address)
    if port is None:
        return f"{address} is in use by another process"
    holder = ports.holder(port, udp=address.startswith("udp"))
    where = f"port {port} on {host}" if host else f"port {port}"
    return f"{where} is in use by another process" + (f" ({holder})" if holder else "")
