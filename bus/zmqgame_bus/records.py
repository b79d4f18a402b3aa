"""The one encoding of events: the same bytes in the spool's segments, on PUB and in answers to gap requests.

A record is `u32 length, u32 crc, u64 seq, body`: length counts seq and body, crc is CRC-32 over seq and
body, all little-endian. A length below 8 is no record, so a tail of zeros (what a crash can leave in a
file) decodes to nothing.

A frame is what travels: `4 bytes magic, u8 kind, u8 0, u16 length of the source's name, u64 epoch, name`,
then

| kind | what follows |
|---|---|
| 1 records | records of that epoch, back to back |
| 2 announce | JSON `[[epoch, first unconfirmed, last], ...]`: every epoch that is not yet confirmed |
| 3 lost | JSON `{"first", "last", "reason"}`: numbers of that epoch which the source can't give any more |

The body of a record is JSON: `[table, microseconds since 1970, {column: value}]`.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from zmqgame_bus.limits import EVENT_BYTES_MAX, EVENT_FRAME_BYTES_MAX, EVENT_SOURCE_BYTES_MAX

RECORDS: Final = 1
ANNOUNCE: Final = 2
LOST: Final = 3

_MAGIC: Final = b"ZGE1"
_RECORD: Final = struct.Struct("<IIQ")
_SEQ: Final = struct.Struct("<Q")
_FRAME: Final = struct.Struct("<4sBBHQ")
RECORD_ROOM: Final = _RECORD.size
"""What a record takes beside its body, in bytes."""

Record = tuple[int, bytes]
"""(seq, body)"""


class FrameError(ValueError):
    """Bytes that are no frame of events; `kind` is one of magic, kind, length, limit, record, json."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"not an event frame: {kind}: {detail}")
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded frame: `records` for kind RECORDS, `data` for the other kinds; `raw` if it came as bytes."""

    kind: int
    source: str
    epoch: int
    records: list[Record]
    data: Any = None
    raw: bytes = field(default=b"", compare=False, repr=False)


def encode_record(seq: int, body: bytes) -> bytes:
    """The bytes of one record."""
    return _RECORD.pack(len(body) + 8, zlib.crc32(body, zlib.crc32(_SEQ.pack(seq))), seq) + body


def decode_records(data: bytes | memoryview, offset: int = 0) -> tuple[list[Record], int]:
    """The whole records from `offset` on, and where the first thing that is none begins (the length, if all
    are)."""
    whole = bytes(data)
    end = len(whole)
    records: list[Record] = []
    unpack, crc32 = _RECORD.unpack_from, zlib.crc32
    while end - offset >= RECORD_ROOM:
        length, crc, seq = unpack(whole, offset)
        start = offset + 8
        stop = start + length
        if length < 8 or length > EVENT_BYTES_MAX + 8 or stop > end or crc32(whole[start:stop]) != crc:
            break
        records.append((seq, whole[start + 8 : stop]))
        offset = stop
    return records, offset


def frame_head(kind: int, source: str, epoch: int) -> bytes:
    """What stands before the records or the JSON of a frame."""
    name = source.encode()
    return _FRAME.pack(_MAGIC, kind, 0, len(name), epoch) + name


def encode_frame(kind: int, source: str, epoch: int, data: object) -> bytes:
    """A frame of kind ANNOUNCE or LOST."""
    return frame_head(kind, source, epoch) + orjson.dumps(data)


def decode_frame(data: bytes | memoryview) -> Frame:
    """Decode a frame; raises FrameError, whatever the bytes."""
    view = memoryview(data)
    if len(view) > EVENT_FRAME_BYTES_MAX:
        raise FrameError("limit", f"{len(view)} bytes, limit EVENT_FRAME_BYTES_MAX = {EVENT_FRAME_BYTES_MAX}")
    if len(view) < _FRAME.size:
        raise FrameError("length", f"{len(view)} bytes, a head has {_FRAME.size}")
    magic, kind, _, name_length, epoch = _FRAME.unpack_from(view)
    if magic != _MAGIC:
        raise FrameError("magic", repr(magic))
    if not 1 <= name_length <= EVENT_SOURCE_BYTES_MAX or len(view) < _FRAME.size + name_length:
        raise FrameError("length", f"a source name of {name_length} bytes")
    start = _FRAME.size + name_length
    try:
        source = str(view[_FRAME.size : start], "utf-8")
    except UnicodeDecodeError as error:
        raise FrameError("length", f"source name: {error}") from None
    if kind == RECORDS:
        records, stop = decode_records(view, start)
        if stop != len(view):
            raise FrameError("record", f"no whole record at byte {stop} of {len(view)}")
        return Frame(kind, source, epoch, records, None, bytes(view))
    if kind not in (ANNOUNCE, LOST):
        raise FrameError("kind", str(kind))
    try:
        return Frame(kind, source, epoch, [], orjson.loads(view[start:]))
    except orjson.JSONDecodeError as error:
        raise FrameError("json", str(error)) from None
