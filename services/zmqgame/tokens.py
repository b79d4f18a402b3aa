"""Who may play: signed tokens (JWT, HS256) and netcode connect tokens.

The manager signs and each game server verifies with the same secret; a second one is netcode's private key.
"""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

import jwt
import zmqgame_native

from zmqgame import limits
from zmqgame.play.rules import Refused

AUDIENCE = "game"
ALGORITHM = "HS256"
REQUIRED = ["sub", "sid", "aud", "exp", "auth_time"]
SECRET_BYTES = 32
PROTOCOL_ID = 0x7A6D7167616D6501  # "zmqgame", version 1: netcode's protocol id
USER_DATA_BYTES = 256


@dataclass(frozen=True)
class Claims:
    """What a token says."""

    player: str
    session: int
    expires_s: int
    auth_ms: int  # when the manager let the player in: tokens that a game server renews keep it


def load_secret(path: Path) -> bytes:
    """The shared secret in `path`; made there, readable by its owner only, if there is none yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    if not path.exists():
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(SECRET_BYTES) + "\n")
        try:
            os.link(part, path)  # fails if another process was first: then its secret counts
        except FileExistsError:
            pass
        finally:
            part.unlink()
    secret = bytes.fromhex(path.read_text().strip())
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"{path}: a secret has {SECRET_BYTES} bytes in hex, this has {len(secret)}")
    return secret


def new_session() -> int:
    """A number that names a session; 0 is none."""
    return secrets.randbits(63) + 1


def wall_ms() -> int:
    """The clock that tokens go by."""
    return time.time_ns() // 1_000_000


def sign(secret: bytes, player: str, session: int, valid_s: int, auth_ms: int | None = None) -> str:
    """A token for a player's session; without `auth_ms` it is the player's own login that begins now."""
    now = wall_ms()
    claims = {
        "sub": player,
        "sid": str(session),
        "aud": AUDIENCE,
        "exp": now // 1_000 + valid_s,
        "auth_time": (now if auth_ms is None else auth_ms) / 1_000,
    }
    return jwt.encode(claims, secret, ALGORITHM)


def verify(secret: bytes, token: str) -> Claims:
    """The claims of a token; raises `Refused` with the kind token_expired or bad_token."""
    if len(token) > limits.MAX_TOKEN_BYTES:
        raise Refused("bad_token", f"{len(token)} characters are over {limits.MAX_TOKEN_BYTES}")
    try:
        claims = jwt.decode(token, secret, [ALGORITHM], audience=AUDIENCE, options={"require": REQUIRED})
        session, auth_ms = int(claims["sid"]), round(claims["auth_time"] * 1_000)
    except jwt.ExpiredSignatureError as error:
        raise Refused("token_expired", "ask the manager for a new one") from error
    except (jwt.InvalidTokenError, ValueError, TypeError, OverflowError) as error:
        raise Refused("bad_token", type(error).__name__) from error
    if not 0 < session < 1 << 64 or not valid_name(claims["sub"]):
        raise Refused("bad_token", "its session or player is not possible")
    return Claims(claims["sub"], session, int(claims["exp"]), min(auth_ms, wall_ms()))


class Newest:
    """The newest login of each player that was seen here: what is older than it does not come back.

    Only times of the manager's clock are compared. Bounded: the players that were here longest ago go first.
    """

    def __init__(self, most: int = limits.KNOWN_LOGINS) -> None:
        self._most = most
        self._known: dict[str, tuple[int, int, bool]] = {}  # auth_ms, session, whether it has left

    def check(self, claims: Claims) -> None:
        """Raise `Refused` with the kind taken_over or left for a token of an older login."""
        auth_ms, session, left = self._known.get(claims.player, (0, 0, False))
        if left and claims.auth_ms <= auth_ms:
            raise Refused("left", "this login has left: ask the manager for another")
        if claims.session != session and claims.auth_ms < auth_ms:
            raise Refused("taken_over", "there was a newer login")

    def note(self, player: str, session: int, auth_ms: int, *, left: bool = False) -> None:
        """The player has come, or left for good, in this session."""
        self._known.pop(player, None)
        self._known[player] = (auth_ms, session, left)
        if len(self._known) > self._most:
            del self._known[next(iter(self._known))]


def valid_name(name: object) -> bool:
    """Whether the bus takes this as a name."""
    return (
        isinstance(name, str)
        and 1 <= len(name.encode(errors="replace")) <= limits.MAX_NAME_BYTES
        and name.isprintable()
    )


def user_data(player: str, session: int) -> bytes:
    """What a connect token carries: length of the name u8, the name, the session u64."""
    name = player.encode()
    return (bytes([len(name)]) + name + session.to_bytes(8, "little")).ljust(USER_DATA_BYTES, b"\0")


def read_user_data(data: bytes) -> tuple[str, int]:
    """The player and session in a connect token's user data."""
    length = data[0] if data else 0
    end = 1 + length
    if len(data) < end + 8:
        raise Refused("malformed", "user data is too short")
    try:
        return data[1:end].decode(), int.from_bytes(data[end : end + 8], "little")
    except UnicodeDecodeError as error:
        raise Refused("malformed", "user data holds no name") from error


def connect_token(
    key: bytes, player: str, session: int, udp: str, valid_s: int, timeout_s: int = 15
) -> bytes:
    """A netcode connect token for a player's session at a game server's UDP address."""
    return zmqgame_native.netcode_connect_token(
        PROTOCOL_ID, valid_s, timeout_s, secrets.randbits(64), [udp], key, user_data(player, session)
    )
