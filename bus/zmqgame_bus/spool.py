"""The spool: a bounded queue of one source's events on disk.

Theory. A source numbers its events 1, 2, 3 ... in each epoch (each start of its process; an epoch is
greater than every earlier one). The spool holds what stats has not yet confirmed, of this epoch and of
earlier ones:

    FOLDER/lock                      held by the one process that may write; says which
    FOLDER/marks.json                {"source", "epochs": {epoch: {"last", "confirmed", "refused"}},
    "forgotten"} FOLDER/EPOCH-FIRST.seg           a head (magic, source, CRC), then records in order, the
    first one numbered FIRST

Invariants, which the crash tests check at every byte:
- A segment is only appended to by the process that made it; a new process begins a new one. So only the
  last segment of an epoch can have a torn tail, and it is cut at open.
- A record is published only after `commit`. What was cut was never published.
- Before a segment is removed, marks.json has its last number on disk. So marks and segments together always
  tell what each epoch published: 1 to the greater of both, without a gap. `scan` reads just that, in a
  running system too.
- marks.json is replaced by renaming a synced file, so it is whole or it is the earlier one.

What is assumed of disk and kernel: rename is atomic; what fdatasync returned for stays; after a failed
write or sync nothing is known about what came after the last commit, so the segment is cut there and never
appended to again.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import quote

import orjson

from zmqgame_bus.errors import AlreadyRunning, ZmqgameError
from zmqgame_bus.limits import (
    EVENT_BATCH_BYTES,
    EVENT_FRAME_BYTES_MAX,
    EVENT_SOURCE_BYTES_MAX,
    SPOOL_BYTES,
    SPOOL_BYTES_MIN,
    SPOOL_EPOCHS_MAX,
    SPOOL_RESERVE_BYTES,
    SPOOL_SEGMENT_BYTES,
)
from zmqgame_bus.records import RECORD_ROOM, decode_records, encode_record

__all__ = [
    "Published",
    "Reading",
    "Spool",
    "SpoolError",
    "SpoolFull",
    "SpoolInUse",
    "SpoolWriteFailed",
    "folder_of",
    "scan",
]

Durability = Literal["process", "power"]

_MAGIC: Final = b"ZGSPOOL1"
_NAME = re.compile(r"^(\d{20})-(\d{20})\.seg$")


class SpoolError(ZmqgameError):
    """Base of what a spool refuses."""


class SpoolFull(SpoolError):
    """An event was refused since the spool or the queue before it holds `value` of `limit` bytes; it has no
    number."""

    def __init__(self, source: str, limit: str, limit_bytes: int, value: int, cause: str = "") -> None:
        super().__init__(
            f"event of {source} refused: {limit} = {limit_bytes} bytes, {value} waiting"
            + (f" ({cause})" if cause else "")
        )
        self.source, self.limit, self.limit_bytes, self.value = source, limit, limit_bytes, value


class SpoolInUse(SpoolError, AlreadyRunning):
    """Another process writes this spool."""

    def __init__(self, folder: Path, holder: str) -> None:
        super().__init__(
            f"spool {folder} is written by another process ({holder}); give each process its own source name"
        )
        self.folder, self.holder = folder, holder


class SpoolWriteFailed(SpoolError):
    """The disk refused; nothing after the last commit counts as written. `__cause__` is the OSError."""


class Published(NamedTuple):
    """What an epoch of a source published: numbers `first` to `last` (0 events: last is 0)."""

    first: int
    last: int
    confirmed: int
    refused: int

    @property
    def events(self) -> int:
        """How many events were published."""
        return self.last - self.first + 1


@dataclass(slots=True)
class Mark:
    """The durable numbers of one epoch."""

    last: int = 0
    confirmed: int = 0
    refused: int = 0


@dataclass(slots=True)
class Segment:
    """One file: records numbered `first` to `last` (last < first: none), valid up to `size` bytes."""

    path: Path
    epoch: int
    first: int
    last: int
    size: int


@dataclass(frozen=True, slots=True)
class Reading:
    """Whole records from number `first` to `last`; or nothing (`records` empty) and the numbers to give up,
    with why."""

    records: bytes
    first: int
    last: int
    lost: str = ""


def folder_of(spool_dir: Path, source: str) -> Path:
    """The folder of a source below `spool_dir`; any name makes one file name, different for different
    names."""
    name = quote(source, safe="")
    if len(name) > 200:
        name = f"{name[:150]}~{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    return spool_dir / f"{name}.spool"


class Spool:
    """The spool of one source, open for writing. `append`, `commit`: one thread; the rest: any."""

    def __init__(
        self,
        folder: Path,
        source: str,
        *,
        bytes_limit: int = SPOOL_BYTES,
        segment_bytes: int = SPOOL_SEGMENT_BYTES,
        durability: Durability = "power",
        epoch: int | None = None,
    ) -> None:
        if not 1 <= len(source.encode()) <= EVENT_SOURCE_BYTES_MAX:
            raise ValueError(
                f"a source's name has 1 to {EVENT_SOURCE_BYTES_MAX} bytes, not {len(source.encode())}"
            )
        if bytes_limit < SPOOL_BYTES_MIN:
            raise ValueError(f"a spool of {bytes_limit} bytes is below SPOOL_BYTES_MIN = {SPOOL_BYTES_MIN}")
        self.folder, self.source, self.bytes_limit = folder, source, bytes_limit
        self._segment_bytes = min(segment_bytes, bytes_limit // 8)
        self._power = durability == "power"
        self._lock = threading.Lock()
        self._file: int | None = None
        self._active: Segment | None = None
        self._pending: list[bytes] = []
        self._hint: tuple[Path, int, int] | None = None  # file, number, offset: where the last reading ended
        self._reserve = folder / "reserve"
        self.damaged = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._lock_fd = _take_lock(folder)
        try:
            self._marks, self._forgotten = _load_marks(folder, source)
            self._segments = self._recover()
            self.epoch = max(epoch or time.time_ns() // 1_000_000, max(self._marks, default=0) + 1)
            self._marks[self.epoch] = Mark()
            self._next = 1
            self._save_marks()
            self._fill_reserve()
        except BaseException:
            os.close(self._lock_fd)
            raise

    # -- writing: one thread ---------------------------------------------------------------------------------

    def append(self, bodies: Sequence[bytes]) -> int:
        """Number the bodies and hold them for `commit`; returns the first number."""
        first = self._next
        self._pending += [encode_record(number, body) for number, body in enumerate(bodies, first)]
        self._next += len(bodies)
        return first

    def commit(self) -> list[tuple[int, bytes]]:
        """Write what was appended; returns it as runs (first number, records) of at most about
        EVENT_BATCH_BYTES.

        On SpoolWriteFailed nothing is lost: the records stay pending, and the next commit tries again in a
        new file.
        """
        if not self._pending:
            return []
        try:
            return self._write_pending()
        except OSError as error:
            self._abandon_segment()
            raise SpoolWriteFailed(
                f"cannot write to spool {self.folder}: {error.strerror or error}"
            ) from error

    def _write_pending(self) -> list[tuple[int, bytes]]:
        first = self._next - len(self._pending)
        if self._active is None:
            self._new_segment(first)
        segment, file = self._active, self._file
        assert segment is not None
        assert file is not None
        runs = list(_runs(first, self._pending))
        offset = segment.size
        for _, data in runs:
            offset += _write_all(file, data, offset)
        if self._power:
            os.fdatasync(file)
        with self._lock:
            segment.size = offset
            segment.last = self._marks[self.epoch].last = self._next - 1
            self._pending = []
        if segment.size >= self._segment_bytes:
            self._close_segment()
        return runs

    def _new_segment(self, first: int) -> None:
        path = self.folder / f"{self.epoch:020d}-{first:020d}.seg"
        head = _segment_head(self.source)
        # O_TRUNC: a file of this name can only be a try of this process that the disk refused.
        file = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o640)
        try:
            _write_all(file, head, 0)
            if self._power:
                os.fsync(file)
                _sync_folder(self.folder)
        except OSError:
            os.close(file)
            path.unlink(missing_ok=True)
            raise
        with self._lock:
            self._file = file
            self._active = Segment(path, self.epoch, first, first - 1, len(head))
            self._segments.append(self._active)

    def _close_segment(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file = self._active = None

    def _abandon_segment(self) -> None:
        segment, file = self._active, self._file
        if segment is None or file is None:
            return
        try:
            os.ftruncate(file, segment.size)
        except OSError:
            self.damaged += 1  # readers stop at `size`; recovery at the first record that is not whole
        with self._lock:
            self._close_segment()
            if segment.last < segment.first:
                self._segments.remove(segment)
                segment.path.unlink(missing_ok=True)

    # -- reading and confirming: any thread ------------------------------------------------------------------

    @property
    def bytes(self) -> int:
        """What the committed records take on disk."""
        with self._lock:
            return sum(segment.size for segment in self._segments)

    @property
    def last(self) -> int:
        """The last committed number of this epoch."""
        return self._marks[self.epoch].last

    def unconfirmed(self) -> list[tuple[int, int, int]]:
        """(epoch, first unconfirmed number, last number), oldest first; this epoch always stands at the
        end."""
        with self._lock:
            return [
                (epoch, mark.confirmed + 1, mark.last)
                for epoch, mark in sorted(self._marks.items())
                if mark.confirmed < mark.last or epoch == self.epoch
            ]

    def read(self, epoch: int, first: int, last: int, bytes_max: int = EVENT_BATCH_BYTES) -> Reading | None:
        """Committed records from `first` to at most `last` and about `bytes_max`; None: not (yet) written
        numbers."""
        bytes_max = min(bytes_max, EVENT_FRAME_BYTES_MAX // 2)
        with self._lock:
            mark = self._marks.get(epoch)
            known = mark.last if mark else None
            later = [s for s in self._segments if s.epoch == epoch and s.last >= first]
            segment = min(later, key=lambda s: s.first) if later else None
            if segment is not None and segment.first <= first:
                reader = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        if known is None:
            return Reading(b"", first, last, "this source has no such epoch")
        last = min(last, known)
        if first > last:
            return None
        why = "confirmed and removed" if mark and first <= mark.confirmed else "unreadable in the spool"
        if segment is None:
            return Reading(b"", first, last, why)
        if segment.first > first:
            return Reading(b"", first, min(last, segment.first - 1), why)
        try:
            return self._read_segment(reader, segment, first, min(last, segment.last), bytes_max)
        finally:
            os.close(reader)

    def _read_segment(self, reader: int, segment: Segment, first: int, last: int, bytes_max: int) -> Reading:
        offset = len(_segment_head(self.source))
        hint = self._hint
        if hint is not None and hint[:2] == (segment.path, first):
            offset = hint[2]
        out = bytearray()
        reached = first - 1
        while reached < last:
            block = os.pread(reader, min(EVENT_BATCH_BYTES, segment.size - offset), offset)
            records, stop = decode_records(block)
            if not records:
                break
            for number, body in records:
                size = RECORD_ROOM + len(body)
                if number > last or (out and len(out) + size > bytes_max):
                    stop = 0
                    break
                if number >= first:
                    out += encode_record(number, body)
                    reached = number
                offset += size
            if stop == 0:
                break
        if reached < first:
            self.damaged += 1
            return Reading(b"", first, last, "unreadable in the spool")
        self._hint = segment.path, reached + 1, offset
        return Reading(bytes(out), first, reached)

    def confirm(self, epoch: int, up_to: int) -> None:
        """Stats has committed everything up to this number: remove the segments that hold nothing later."""
        with self._lock:
            mark = self._marks.get(epoch)
            if mark is None or up_to <= mark.confirmed:
                return
            mark.confirmed = min(up_to, mark.last)
            done = [
                s
                for s in self._segments
                if s.epoch == epoch and s.last <= mark.confirmed and s is not self._active
            ]
            if not done:
                return
            self._save_marks()
            for segment in done:
                segment.path.unlink(missing_ok=True)
                self._segments.remove(segment)
            self._fill_reserve()

    def count_refused(self, count: int) -> None:
        """Set how many events of this epoch were refused; it is kept with the marks."""
        self._marks[self.epoch].refused = count

    def close(self) -> None:
        """Save the marks and let go of the folder."""
        with self._lock:
            self._close_segment()
            try:
                self._save_marks()
            finally:
                os.close(self._lock_fd)

    # -- opening ---------------------------------------------------------------------------------------------

    def _recover(self) -> list[Segment]:
        segments = []
        for path, epoch, first in _segment_files(self.folder):
            last, size, whole = _measure(path, self.source, first)
            if not whole:
                os.truncate(path, size)
            if last < first:
                path.unlink()
                continue
            segments.append(Segment(path, epoch, first, last, size))
            mark = self._marks.setdefault(epoch, Mark(confirmed=first - 1))
            mark.last = max(mark.last, last)
        keep = []
        for segment in segments:
            if segment.last <= self._marks[segment.epoch].confirmed:
                segment.path.unlink()
            else:
                keep.append(segment)
        return keep

    def _save_marks(self) -> None:
        for epoch in sorted(self._marks):
            if len(self._marks) <= SPOOL_EPOCHS_MAX:
                break
            if self._marks[epoch].confirmed >= self._marks[epoch].last:
                self._forgotten += self._marks.pop(epoch).last
        epochs = {
            str(epoch): {"last": m.last, "confirmed": m.confirmed, "refused": m.refused}
            for epoch, m in self._marks.items()
        }
        data = orjson.dumps({"source": self.source, "epochs": epochs, "forgotten": self._forgotten})
        try:
            _replace_file(self.folder / "marks.json", data)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._reserve.exists():
                raise
            self._reserve.unlink()
            _replace_file(self.folder / "marks.json", data)

    def _fill_reserve(self) -> None:
        """Without it, a full disk would refuse the marks, and without marks nothing may be removed from a
        full disk."""
        if self._reserve.exists():
            return
        try:
            with self._reserve.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, SPOOL_RESERVE_BYTES)
        except OSError:
            self._reserve.unlink(missing_ok=True)  # no room now; the next confirmation tries again


def scan(spool_dir: Path) -> dict[tuple[str, int], Published]:
    """What every spool in `spool_dir` (or the spool that it is) published, by (source, epoch), from the
    files alone.

    Works while the sources run, and after kill -9. Confirmed segments are gone, but the marks keep their
    numbers.
    """
    found: dict[tuple[str, int], Published] = {}
    folders = sorted(spool_dir.glob("**/*.spool")) or [spool_dir]
    for folder in folders:
        found |= _scan_folder(folder)
    return found


def _scan_folder(folder: Path) -> dict[tuple[str, int], Published]:
    reached: dict[tuple[str, int], int] = {}
    for path, epoch, first in _segment_files(folder):
        try:
            source = _source_of(path)
            if source is not None:
                last = _measure(path, source, first)[0]
                reached[source, epoch] = max(last, reached.get((source, epoch), 0))
        except FileNotFoundError:
            continue  # removed meanwhile: then the marks, read after this, have its numbers
    marks = _marks_file(folder)
    found = {}
    if marks is not None:
        for text, mark in marks["epochs"].items():
            source, epoch = marks["source"], int(text)
            last = max(mark["last"], reached.pop((source, epoch), 0))
            if last or mark["refused"]:
                found[source, epoch] = Published(1, last, mark["confirmed"], mark["refused"])
    for (source, epoch), last in reached.items():
        found[source, epoch] = Published(1, last, 0, 0)
    return found


def _segment_files(folder: Path) -> list[tuple[Path, int, int]]:
    found = []
    for name in sorted(os.listdir(folder)):
        match = _NAME.match(name)
        if match:
            found.append((folder / name, int(match[1]), int(match[2])))
    return found


def _segment_head(source: str) -> bytes:
    name = source.encode()
    head = _MAGIC + len(name).to_bytes(2, "little") + name
    return head + zlib.crc32(head).to_bytes(4, "little")


def _source_of(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(len(_MAGIC) + 2 + EVENT_SOURCE_BYTES_MAX + 4)
    if not head.startswith(_MAGIC) or len(head) < len(_MAGIC) + 2:
        return None
    length = int.from_bytes(head[8:10], "little")
    try:
        source = head[10 : 10 + length].decode()
    except UnicodeDecodeError:
        return None
    return source if head.startswith(_segment_head(source)) else None


def _measure(path: Path, source: str, first: int) -> tuple[int, int, bool]:
    """(last number, valid bytes, whether that is all of the file) of a segment; numbers must follow each
    other."""
    data = path.read_bytes()
    head = _segment_head(source)
    if not data.startswith(head):
        return first - 1, 0, not data
    records, stop = decode_records(data, len(head))
    last, offset = first - 1, len(head)
    for number, body in records:
        if number != last + 1:
            return last, offset, False
        last, offset = number, offset + RECORD_ROOM + len(body)
    return last, offset, stop == len(data)


def _runs(first: int, records: list[bytes]) -> Iterator[tuple[int, bytes]]:
    start, size, begin = first, 0, 0
    for index, record in enumerate(records):
        if size and size + len(record) > EVENT_BATCH_BYTES:
            yield start, b"".join(records[begin:index])
            start, size, begin = first + index, 0, index
        size += len(record)
    yield start, b"".join(records[begin:])


def _write_all(file: int, data: bytes, offset: int) -> int:
    view = memoryview(data)
    written = 0
    while written < len(data):
        written += os.pwrite(file, view[written:], offset + written)
    return written


def _replace_file(path: Path, data: bytes) -> None:
    scratch = path.with_suffix(".new")
    with scratch.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _take_lock(folder: Path) -> int:
    descriptor = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 64).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise SpoolInUse(folder, f"pid {holder}") from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def _marks_file(folder: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = orjson.loads((folder / "marks.json").read_bytes())
    except FileNotFoundError:
        return None
    return found


def _load_marks(folder: Path, source: str) -> tuple[dict[int, Mark], int]:
    found = _marks_file(folder)
    if found is None:
        return {}, 0
    if found["source"] != source:
        raise SpoolError(f"spool {folder} belongs to {found['source']}, not to {source}")
    marks = {
        int(epoch): Mark(m["last"], m["confirmed"], m["refused"]) for epoch, m in found["epochs"].items()
    }
    return marks, found["forgotten"]
