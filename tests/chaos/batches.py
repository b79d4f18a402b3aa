"""The store's log of batches (rust/store/src/journal.rs), as a crash or a broken disk may leave it.

A record begins at a multiple of 512 bytes: magic, length, salt, number, time, whether it was synced,
checksum; then the body. It counts if its salt is the one that the database names. Of what was synced a crash
takes nothing; behind it there may be a record that was being written: that is `tear`. `turn` is the broken
disk: one bit of a record that others follow, so that what they confirmed is out of reach. The promise then is
a refusal to start.
"""

import random
import shutil
import sqlite3
import struct
import tempfile
import zlib
from pathlib import Path

from tests.chaos.wal import write_torn

_HEAD = struct.Struct("<IIQIQII")
_MAGIC = 0x7A674231
_ALIGN = 512


def salt_of(database: Path) -> int:
    """The salt that counts; looked up in a copy, so that nothing is moved."""
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("", "-wal"):
            if Path(f"{database}{suffix}").exists():
                shutil.copy(f"{database}{suffix}", f"{folder}/copy.db{suffix}")
        connection = sqlite3.connect(f"{folder}/copy.db")
        try:
            found = connection.execute("select value from meta where name = 'log'").fetchone()
        except sqlite3.Error:
            return 0
        finally:
            connection.close()
    return found[0] & ((1 << 64) - 1) if found else 0


def record(salt: int, number: int, body: bytes) -> bytes:
    """One record as it is written."""
    head = struct.pack("<IIQIQI", _MAGIC, len(body), salt, number, 0, 1)
    return head + struct.pack("<II", 0, zlib.crc32(head + b"\0\0\0\0" + body)) + body


def records(data: bytes, salt: int) -> list[tuple[int, int]]:
    """Where each record that counts begins and ends, without padding."""
    found: list[tuple[int, int]] = []
    at = 0
    while at + _HEAD.size + 4 <= len(data):
        magic, length, its_salt, number, *_ = _HEAD.unpack_from(data, at)
        end = at + _HEAD.size + 4 + length
        whole = data[at : at + _HEAD.size] + data[at + _HEAD.size + 4 : end]
        (checksum,) = struct.unpack_from("<I", data, at + _HEAD.size)
        if (magic, its_salt, number) != (_MAGIC, salt, len(found) + 1) or zlib.crc32(whole) != checksum:
            break
        found.append((at, end))
        at = -(-end // _ALIGN) * _ALIGN
    return found


def turn(database: Path, chance: random.Random) -> bool:
    """Turn a bit of a record that another one follows; False if there is none."""
    path = Path(f"{database}-batches")
    salt = salt_of(database)
    if not path.exists() or salt == 0:
        return False
    found = records(path.read_bytes(), salt)
    if len(found) < 2:
        return False
    at = chance.randrange(*chance.choice(found[:-1]))
    with path.open("r+b") as file:
        file.seek(at)
        bits = file.read(1)[0] ^ (1 << chance.randrange(8))
        file.seek(at)
        file.write(bytes([bits]))
    return True


def tear(database: Path, chance: random.Random) -> bool:
    """Put a record that was being written behind the last whole one; False if there is no log."""
    path = Path(f"{database}-batches")
    salt = salt_of(database)
    if not path.exists() or salt == 0:
        return False
    found = records(path.read_bytes(), salt)
    one = record(salt, len(found) + 1, chance.randbytes(chance.randint(1, 5_000)))
    kind = chance.choice(["cut", "turned", "noise"])
    if kind == "cut":
        one = one[: chance.randrange(len(one))]
    elif kind == "turned":
        at = chance.randrange(len(one))
        one = one[:at] + bytes([one[at] ^ (1 << chance.randrange(8))]) + one[at + 1 :]
    else:
        one = chance.randbytes(len(one))
    write_torn(path, -(-found[-1][1] // _ALIGN) * _ALIGN if found else 0, one)
    return True
