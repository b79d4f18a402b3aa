"""What a crash may leave at the end of SQLite's write-ahead log, made from a real log.

The format is SQLite's own (sqlite.org/fileformat2.html#walformat): a header of 32 bytes with two salts, then
frames of 24 bytes and a page; each frame carries the salts and a checksum over all before it; a frame with a
database size ends a transaction.

A commit that was acknowledged was synced, so a crash can't take it away: cutting it off, or turning a bit in
it, is no crash but a broken disk. What a crash can leave is a transaction that was being written: whole
frames without the last one, half a frame, a frame with turned bits or of noise, all behind the last commit.
That is `tear`, and everything acked must survive it.

`turn` is the broken disk: one bit in what was synced. The promise then is that the hub refuses to start and
says where. Two things can't be told, and are not tried: a bit in the very last transactions (a torn one looks
the same), and a bit in a page that was moved into the database (SQLite has no checksums there).
"""

import errno
import random
import struct
from dataclasses import dataclass
from pathlib import Path

HEADER_BYTES, FRAME_HEADER_BYTES = 32, 24
_BIG_ENDIAN_SUMS = 0x377F0683
_LITTLE_ENDIAN_SUMS = 0x377F0682
_MASK = 0xFFFFFFFF

Sums = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Log:
    """Where the valid part of a log ends."""

    page_bytes: int
    salts: bytes
    order: str
    """Byte order of the words that are summed."""
    end: int
    """Behind the last frame of the last whole transaction."""
    sums: Sums
    """The checksum at `end`."""
    last_page: int


def add(sums: Sums, data: bytes, order: str) -> Sums:
    """SQLite's running checksum over whole pairs of words."""
    first, second = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for index in range(0, len(words), 2):
        first = (first + words[index] + second) & _MASK
        second = (second + words[index + 1] + first) & _MASK
    return first, second


def read(data: bytes) -> Log | None:
    """Find the end of what is committed; None for a log without a header."""
    if len(data) < HEADER_BYTES:
        return None
    magic, _, page_bytes, _ = struct.unpack_from(">IIII", data)
    if magic not in (_BIG_ENDIAN_SUMS, _LITTLE_ENDIAN_SUMS):
        return None
    order = ">" if magic == _BIG_ENDIAN_SUMS else "<"
    sums = add((0, 0), data[:24], order)
    salts = data[16:24]
    log = Log(page_bytes, salts, order, HEADER_BYTES, sums, 1)
    at, size = HEADER_BYTES, FRAME_HEADER_BYTES + page_bytes
    while at + size <= len(data):
        page, commit = struct.unpack_from(">II", data, at)
        if data[at + 8 : at + 16] != salts:
            break
        sums = add(add(sums, data[at : at + 8], order), data[at + FRAME_HEADER_BYTES : at + size], order)
        if sums != struct.unpack_from(">II", data, at + 16):
            break
        at += size
        if commit:
            log = Log(page_bytes, salts, order, at, sums, page)
    return log


def frame(log: Log, sums: Sums, page: int, commit: int, body: bytes) -> tuple[bytes, Sums]:
    """One frame as SQLite writes it, and the checksum behind it."""
    head = struct.pack(">II", page, commit)
    sums = add(add(sums, head, log.order), body, log.order)
    return head + log.salts + struct.pack(">II", *sums) + body, sums


def unfinished(log: Log, chance: random.Random) -> bytes:
    """A transaction that was being written when the machine stopped."""
    written, sums = b"", log.sums
    for _ in range(chance.randint(0, 3)):  # whole frames, and no commit
        one, sums = frame(log, sums, chance.randint(1, log.last_page), 0, chance.randbytes(log.page_bytes))
        written += one
    one, _ = frame(log, sums, log.last_page, chance.randint(1, 100), chance.randbytes(log.page_bytes))
    kind = chance.choice(["cut", "turned", "noise", "nothing"])
    if kind == "cut":
        written += one[: chance.randrange(len(one))]
    elif kind == "turned":  # the commit frame itself, with one wrong bit
        at = chance.randrange(FRAME_HEADER_BYTES, len(one))
        written += one[:at] + bytes([one[at] ^ (1 << chance.randrange(8))]) + one[at + 1 :]
    elif kind == "noise":
        written += chance.randbytes(chance.randint(1, 2 * len(one)))
    return written


def turn(path: Path, chance: random.Random) -> bool:
    """Turn a bit of a synced frame that some transactions follow; False if there is none."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return False
    log = read(data)
    if log is None:
        return False
    size = FRAME_HEADER_BYTES + log.page_bytes
    starts = range(HEADER_BYTES, log.end, size)
    ends = [at for at in starts if struct.unpack_from(">I", data, at + 4)[0]]
    if len(ends) < 6:
        return False
    at = chance.randrange(HEADER_BYTES, ends[-5] + size)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes([data[at] ^ (1 << chance.randrange(8))]))
    return True


def tear(path: Path, chance: random.Random) -> bool:
    """Put an unfinished transaction behind the last whole one; False if there is no log."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return False
    log = read(data)
    if log is None:
        return False
    write_torn(path, log.end, unfinished(log, chance))
    return True


def write_torn(path: Path, at: int, data: bytes) -> None:
    """Write as a process that dies: on a full disk what still fits."""
    with path.open("r+b", buffering=0) as file:
        file.seek(at)
        try:
            file.write(data)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
