"""Key files: CURVE pairs of processes, who may connect, the token secret, the netcode key.

============== ======================================================================== ==========
file           content                                                                  mode
============== ======================================================================== ==========
``NAME.key``   ``public = "Z85"`` and ``secret = "Z85"``, one a line                    0600
``NAME.pub``   the public key, Z85, one a line                                          0644
allowed.keys   ``PUBLIC  NAME-PATTERN  ROLE,ROLE`` a line; ``*`` is every role          0644
token.secret   32 bytes as hexadecimal: signs the tokens with which players log in      0600
netcode.key    32 bytes as hexadecimal: seals the connect tokens for UDP                0600
============== ======================================================================== ==========

During a rotation ``NAME.key`` has two pairs and ``NAME.pub`` two keys, the new one first: a server answers to
both, who connects trusts both, and ``allowed.keys`` has a line for each (`zmqgame_bus.rotation`).

A bare file name is looked for among systemd's credentials (LoadCredential), then beside the configuration
file.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from zmqgame_bus.config import Config
from zmqgame_bus.errors import KeyFileError
from zmqgame_bus.limits import ALLOWED_KEYS, KEY_FILE_BYTES, NAME_BYTES
from zmqgame_bus.systemd import credentials_dir
from zmqgame_bus.tables import SecurityConfig

__all__ = [
    "Allowed",
    "KeyPair",
    "Keyring",
    "NodeKeys",
    "allow",
    "new_pair",
    "new_secret",
    "read_allowed",
    "read_pair",
    "read_pairs",
    "read_publics",
]

KEY_BYTES = 32
_PAIR_LINE = re.compile(r'(public|secret) = "(\S{40})"')


@dataclass(frozen=True)
class KeyPair:
    """A CURVE pair; the secret half is never shown."""

    public: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True)
class NodeKeys:
    """What a node needs for CURVE: its own pair and the key of the server it trusts."""

    public: bytes
    secret: bytes = field(repr=False)
    server_public: bytes
    others: tuple[bytes, ...] = ()
    """Further keys by which the server may be known, during a rotation."""
    source: Callable[[], NodeKeys] | None = field(default=None, repr=False, compare=False)
    """Reads the files again; without it the keys stay as they are."""

    def curve(self) -> tuple[bytes, bytes]:
        """The server's key and the own secret, as native sockets take them."""
        return self.server_public, self.secret

    def attempt(self, number: int) -> NodeKeys:
        """The keys for the next connection: as the files say by now, the trusted servers in turn.

        ``number`` counts the handshakes that have failed for the keys.
        """
        keys = self
        if self.source is not None:
            # A file that is being replaced, or was taken away: what was read before goes on.
            with contextlib.suppress(KeyFileError):
                keys = self.source()
        trusted = (keys.server_public, *keys.others)
        return replace(keys, server_public=trusted[number % len(trusted)], source=self.source)


@dataclass(frozen=True)
class Allowed:
    """Who may connect with a public key: the pattern of its node's name, and its roles."""

    public: bytes
    pattern: str
    roles: tuple[str, ...]

    def line(self) -> str:
        """As it stands in the file of allowed keys."""
        return f"{encode(self.public)}  {self.pattern}  {','.join(self.roles)}"


class Keyring:
    """The keys that a process's configuration names; each is read when it is asked for."""

    def __init__(self, config: Config, environ: Mapping[str, str] = os.environ) -> None:
        self._names = config.table(SecurityConfig)
        self._credentials = credentials_dir(environ)
        folders = [self._credentials, config.file.parent if config.file else None]
        self._folders = [folder for folder in folders if folder is not None]

    @property
    def curve(self) -> bool:
        """Whether the bus is encrypted at all."""
        return self._names.curve

    def pair(self) -> KeyPair:
        """This process's own pair; the newer one during a rotation."""
        return self.pairs()[0]

    def pairs(self) -> list[KeyPair]:
        """This process's own pairs, the newest first."""
        path = self.locate(self._names.key_file)
        return read_pairs(path, by_group=self._of_group(path))

    def node(self) -> NodeKeys | None:
        """Keys for a connection to the hub; None without CURVE."""
        return self._towards(self._names.hub_public_key_file)

    def publisher(self) -> NodeKeys | None:
        """Keys for a connection to stats; None without CURVE."""
        return self._towards(self._names.stats_public_key_file)

    def allowed(self) -> list[Allowed]:
        """Who may connect to this process."""
        return read_allowed(self.locate(self._names.allowed_file))

    def server_files(self) -> tuple[Path, Path]:
        """What a server reads again when it changes: its own pairs, who may connect."""
        return self.locate(self._names.key_file), self.locate(self._names.allowed_file)

    def token_secret(self) -> bytes:
        """The secret that signs players' tokens."""
        path = self.locate(self._names.token_secret_file)
        return _read_secret(path, by_group=self._of_group(path))

    def netcode_key(self) -> bytes:
        """The key that seals connect tokens."""
        path = self.locate(self._names.netcode_key_file)
        return _read_secret(path, by_group=self._of_group(path))

    def locate(self, name: str) -> Path:
        """The file that a configuration value names."""
        path = Path(name)
        if not path.is_absolute():
            for folder in self._folders:
                if (folder / path).exists():
                    return folder / path
        return path

    def _of_group(self, path: Path) -> bool:
        """The service manager hands out credentials as 0440 where it uses access lists."""
        return path.parent == self._credentials

    def _towards(self, server_file: str) -> NodeKeys | None:
        if not self._names.curve:
            return None

        def read() -> NodeKeys:
            own = self.pair()
            first, *others = read_publics(self.locate(server_file))
            return NodeKeys(own.public, own.secret, first, tuple(others), read)

        return read()


def encode(key: bytes) -> str:
    """A key as Z85 text."""
    from zmq.utils import z85

    return z85.encode(key).decode()


def decode(text: str) -> bytes:
    """A key from Z85 text; ValueError says what is wrong."""
    from zmq.utils import z85

    try:
        data = z85.decode(text.encode())
    except (KeyError, ValueError) as error:
        raise ValueError("not Z85") from error
    if len(text) != 40 or len(data) != KEY_BYTES or encode(data) != text:
        raise ValueError("not a key of 40 Z85 characters")
    return data


def fresh_pair() -> KeyPair:
    """A pair that is in no file yet."""
    import zmq

    public, secret = zmq.curve_keypair()
    return KeyPair(decode(public.decode()), decode(secret.decode()))


def new_pair(folder: Path, name: str) -> KeyPair:
    """Make ``NAME.key`` and ``NAME.pub``; never overwrites a key."""
    pair = fresh_pair()
    _create(folder / f"{name}.key", pairs_text(name, [pair]), 0o600)
    _create(folder / f"{name}.pub", encode(pair.public) + "\n", 0o644)
    return pair


def pairs_text(name: str, pairs: Sequence[KeyPair]) -> str:
    """What stands in ``NAME.key``."""
    lines = [f"# CURVE key pair of {name}. Keep it secret; give {name}.pub to others."]
    for pair in pairs:
        lines += [f'public = "{encode(pair.public)}"', f'secret = "{encode(pair.secret)}"']
    return "\n".join(lines) + "\n"


def new_secret(path: Path) -> None:
    """Make a file with 32 random bytes; never overwrites one."""
    _create(path, secrets.token_hex(KEY_BYTES) + "\n", 0o600)


def allow(path: Path, entry: Allowed) -> None:
    """Add a line to a file of allowed keys."""
    known = read_allowed(path) if path.exists() else []
    if len(known) >= ALLOWED_KEYS:
        raise KeyFileError(f"{path} has {len(known)} keys: the limit is {ALLOWED_KEYS}")
    before = path.read_text() if path.exists() else ""
    rewrite(
        path, before + ("\n" if before and not before.endswith("\n") else "") + entry.line() + "\n", 0o644
    )


def revoke(path: Path, public: bytes) -> list[Allowed]:
    """Take every line of a key out of a file of allowed keys; these lines."""
    gone = [entry for entry in read_allowed(path) if entry.public == public]
    lines = path.read_text().splitlines(keepends=True)
    rewrite(path, "".join(line for line in lines if line.split()[:1] != [encode(public)]), 0o644)
    return gone


def read_pair(path: Path) -> KeyPair:
    """The pair in ``NAME.key``; the newer one during a rotation."""
    return read_pairs(path)[0]


def read_pairs(path: Path, *, by_group: bool = False) -> list[KeyPair]:
    """The pairs in ``NAME.key``, the newest first."""
    halves = [
        (match[1], match[2])
        for match in _PAIR_LINE.finditer(_read(path, path.stem, forbidden=_forbidden(by_group)))
    ]
    try:
        names = [name for name, _ in halves]
        if names not in (["public", "secret"], ["public", "secret"] * 2):
            raise ValueError("one or two pairs of lines, public and secret, are wanted")
        keys = [decode(text) for _, text in halves]
        return [KeyPair(*pair) for pair in zip(keys[::2], keys[1::2], strict=True)]
    except ValueError as error:
        raise KeyFileError(f"{path} is no key pair: {error}", hint=_MAKE.format(path.stem)) from error


def read_public(path: Path) -> bytes:
    """The key in ``NAME.pub``; the newer one during a rotation."""
    return read_publics(path)[0]


def read_publics(path: Path) -> list[bytes]:
    """The keys in ``NAME.pub``, the newest first."""
    try:
        found = [decode(line) for line in _read(path, path.stem).split()]
        if len(found) not in (1, 2):
            raise ValueError(f"{len(found)} keys instead of one or two")
        return found
    except ValueError as error:
        raise KeyFileError(f"{path} is no public key: {error}", hint=_MAKE.format(path.stem)) from error


def read_allowed(path: Path) -> list[Allowed]:
    """The lines of a file of allowed keys."""
    entries = []
    for number, line in enumerate(_read(path, "NAME --allow PATTERN").splitlines(), start=1):
        if not line.strip() or line.startswith("# "):
            continue
        try:
            entries.append(_allowed(line))
        except ValueError as error:
            raise KeyFileError(
                f"{path}:{number}: {error}", hint="PUBLIC-KEY  NAME-PATTERN  ROLE,ROLE"
            ) from error
    if len(entries) > ALLOWED_KEYS:
        raise KeyFileError(f"{path} has {len(entries)} keys: the limit is {ALLOWED_KEYS}")
    return entries


def _allowed(line: str) -> Allowed:
    parts = line.split()
    if len(parts) != 3:
        raise ValueError(f"{len(parts)} fields instead of 3")
    if len(parts[1].encode()) > NAME_BYTES:
        raise ValueError(f"name pattern over {NAME_BYTES} bytes")
    return Allowed(decode(parts[0]), parts[1], tuple(role for role in parts[2].split(",") if role))


def _forbidden(by_group: bool) -> int:
    """Bits of the mode that a file with a secret must not have."""
    return 0o037 if by_group else 0o077


def _read_secret(path: Path, *, by_group: bool) -> bytes:
    words = f"{path.name} --kind secret"
    try:
        data = bytes.fromhex(_read(path, words, forbidden=_forbidden(by_group)).strip())
    except ValueError:
        data = b""
    if len(data) != KEY_BYTES:
        raise KeyFileError(f"{path} is not {KEY_BYTES} bytes as hexadecimal", hint=_MAKE.format(words))
    return data


_MAKE = "make it with: zmqgame-cli keys new {}"


def read_text_secret(path: Path) -> str:
    """A password: the file's text without the newline at its end."""
    by_group = path.parent == credentials_dir(os.environ)
    text = _read(path, "", forbidden=_forbidden(by_group)).rstrip("\n")
    if not text:
        raise KeyFileError(f"{path} is empty", hint="write the password into it")
    return text


def _read(path: Path, made_by: str, *, forbidden: int = 0) -> str:
    try:
        with path.open("rb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            data = stream.read(KEY_FILE_BYTES + 1)
    except OSError as error:
        hint = _MAKE.format(made_by) if made_by and isinstance(error, FileNotFoundError) else ""
        raise KeyFileError(f"{path} can't be read: {error.strerror}", hint=hint) from error
    if len(data) > KEY_FILE_BYTES:
        raise KeyFileError(f"{path} is over the limit of {KEY_FILE_BYTES} bytes for a key file")
    if mode & forbidden:
        raise KeyFileError(f"{path} may be read by others (mode {mode:04o})", hint=f"chmod 600 {path}")
    return data.decode(errors="replace")


def _create(path: Path, text: str, mode: int) -> None:
    """A new file that is never readable by others, not even for a moment."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError as error:
        raise KeyFileError(f"{path} exists", hint="a key is never overwritten: move it away first") from error
    except OSError as error:
        raise KeyFileError(f"{path} can't be written: {error.strerror}") from error
    with os.fdopen(fd, "w") as stream:
        os.fchmod(fd, mode)
        stream.write(text)
        stream.flush()
        os.fsync(fd)


def rewrite(path: Path, text: str, mode: int) -> None:
    """Replace a file at once: whoever reads it sees the old text or the new one."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    _create(beside, text, mode)
    try:
        beside.replace(path)
    except OSError as error:
        raise KeyFileError(f"{path} can't be written: {error.strerror}") from error
