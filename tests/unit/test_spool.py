"""The spool: crash images at every byte, bounds, a full disk, damage, other processes."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zmqgame_bus import spool as spool_module
from zmqgame_bus.limits import SPOOL_BYTES_MIN, SPOOL_EPOCHS_MAX
from zmqgame_bus.records import decode_records
from zmqgame_bus.spool import Published, Spool, SpoolError, SpoolInUse, SpoolWriteFailed, folder_of, scan


def body(number: int) -> bytes:
    return b"event %d" % number


def read_all(spool: Spool, epoch: int, last: int, first: int = 1) -> list[tuple[int, bytes]]:
    found = []
    while first <= last:
        reading = spool.read(epoch, first, last, 200)
        assert reading is not None
        assert not reading.lost, reading
        found += decode_records(reading.records)[0]
        first = reading.last + 1
    return found


def write(folder, *, batches=((1, 2, 3), (4, 5)), epoch=None, **options) -> int:
    """A spool as a process leaves it that is killed after its last commit."""
    spool = Spool(folder, "game-1", epoch=epoch, **options)
    for batch in batches:
        spool.append([body(number) for number in batch])
        spool.commit()
    os.close(spool._lock_fd)  # what the kernel does for a process that was killed
    return spool.epoch


def test_what_was_committed_is_read_back_by_the_next_process(tmp_path):
    epoch = write(tmp_path)
    spool = Spool(tmp_path, "game-1")
    assert spool.epoch > epoch
    assert spool.unconfirmed() == [(epoch, 1, 5), (spool.epoch, 1, 0)]
    assert read_all(spool, epoch, 5) == [(number, body(number)) for number in range(1, 6)]
    assert scan(tmp_path) == {("game-1", epoch): Published(1, 5, 0, 0)}
    spool.close()


def test_an_epoch_is_greater_than_each_earlier_one_whatever_the_clock_says(tmp_path):
    first = write(tmp_path, epoch=2**62)
    assert write(tmp_path) == first + 1
    assert write(tmp_path, epoch=5) == first + 2


def test_a_crash_at_every_byte_of_the_tail_leaves_whole_records(tmp_path):
    original = tmp_path / "a"
    epoch = write(original, batches=((1, 2), (3,)))
    (segment,) = original.glob("*.seg")
    data = segment.read_bytes()
    marks = (original / "marks.json").read_bytes()
    for cut in range(len(data) + 1):
        for tail in (b"", b"\0" * 40, b"\xff" * 7):
            folder = tmp_path / "b"
            folder.mkdir()
            (folder / segment.name).write_bytes(data[:cut] + tail)
            (folder / "marks.json").write_bytes(marks)
            scanned = scan(folder)
            spool = Spool(folder, "game-1")
            last = next((last for number, _, last in spool.unconfirmed() if number == epoch), 0)
            assert read_all(spool, epoch, last) == [(number, body(number)) for number in range(1, last + 1)]
            assert scanned.get(("game-1", epoch), Published(1, 0, 0, 0)).last == last
            assert last == 3 or cut < len(data)
            # and the next process can write and be read again
            spool.append([b"after"])
            spool.commit()
            assert read_all(spool, spool.epoch, 1) == [(1, b"after")]
            spool.close()
            shutil.rmtree(folder)


def test_marks_are_whole_or_the_earlier_ones(tmp_path):
    epoch = write(tmp_path)
    (tmp_path / "marks.new").write_bytes(b'{"source": "game-1", "epo')  # killed before the rename
    spool = Spool(tmp_path, "game-1")
    assert spool.unconfirmed()[0] == (epoch, 1, 5)
    spool.close()


def test_confirmed_segments_go_and_their_numbers_stay(tmp_path):
    spool = Spool(tmp_path, "game-1", bytes_limit=SPOOL_BYTES_MIN, segment_bytes=200)
    for number in range(1, 101):
        spool.append([body(number)])
        spool.commit()
    before = spool.bytes
    spool.confirm(spool.epoch, 60)
    assert spool.bytes < before
    assert spool.unconfirmed() == [(spool.epoch, 61, 100)]
    assert read_all(spool, spool.epoch, 100, first=61)[0] == (61, body(61))
    reading = spool.read(spool.epoch, 1, 100)
    assert reading is not None
    assert (reading.records, reading.lost) == (b"", "confirmed and removed")
    spool.confirm(spool.epoch, 100)
    assert scan(tmp_path) == {("game-1", spool.epoch): Published(1, 100, 100, 0)}
    os.close(spool._lock_fd)
    again = Spool(tmp_path, "game-1")
    assert scan(tmp_path)[("game-1", spool.epoch)].last == 100
    assert not list(tmp_path.glob("*.seg"))
    again.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(1, 9)),
            st.tuples(st.just("confirm"), st.integers(0, 60)),
            st.tuples(st.just("kill"), st.just(0)),
        ),
        max_size=25,
    )
)
def test_any_history_keeps_every_unconfirmed_event_and_every_count(tmp_path_factory, history):
    folder = tmp_path_factory.mktemp("spool")
    spool = Spool(folder, "game-1", segment_bytes=150, durability="process")
    written = {spool.epoch: 0}
    confirmed: dict[int, int] = {}
    for what, number in history:
        if what == "append":
            first = written[spool.epoch] + 1
            spool.append([body(n) for n in range(first, first + number)])
            spool.commit()
            written[spool.epoch] += number
        elif what == "confirm":
            for epoch in written:
                spool.confirm(epoch, number)
                confirmed[epoch] = max(confirmed.get(epoch, 0), min(number, written[epoch]))
        else:
            os.close(spool._lock_fd)
            spool = Spool(folder, "game-1", segment_bytes=150, durability="process")
            written[spool.epoch] = 0
        for epoch, last in written.items():
            first = confirmed.get(epoch, 0) + 1
            assert read_all(spool, epoch, last, first=first) == [(n, body(n)) for n in range(first, last + 1)]
        found = {epoch: published.last for (_, epoch), published in scan(folder).items()}
        assert found == {epoch: last for epoch, last in written.items() if last}
    spool.close()


def test_a_full_disk_loses_nothing_and_comes_back(tmp_path, monkeypatch):
    spool = Spool(tmp_path, "game-1")
    spool.append([body(1)])
    spool.commit()
    real = os.pwrite
    room = 10

    def full(file, data, offset):
        if not room:
            return real(file, data, offset)
        real(file, data[:room], offset)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(spool_module.os, "pwrite", full)
    spool.append([body(2), body(3)])
    for _ in range(3):
        with pytest.raises(SpoolWriteFailed) as caught:
            spool.commit()
        assert isinstance(caught.value.__cause__, OSError)
    assert spool.last == 1
    room = 0
    spool.append([body(4)])
    assert [first for first, _ in spool.commit()] == [2]
    assert read_all(spool, spool.epoch, 4) == [(number, body(number)) for number in range(1, 5)]
    os.close(spool._lock_fd)
    again = Spool(tmp_path, "game-1")
    assert read_all(again, spool.epoch, 4) == [(number, body(number)) for number in range(1, 5)]
    again.close()


def test_on_a_full_disk_confirmed_segments_can_still_be_removed(tmp_path, monkeypatch):
    spool = Spool(tmp_path, "game-1", segment_bytes=100)
    for number in range(1, 21):
        spool.append([body(number)])
        spool.commit()
    real = spool_module._replace_file

    def full(path, data):
        if (tmp_path / "reserve").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, data)

    monkeypatch.setattr(spool_module, "_replace_file", full)
    spool.confirm(spool.epoch, 15)
    assert spool.unconfirmed() == [(spool.epoch, 16, 20)]
    monkeypatch.undo()
    assert scan(tmp_path)[("game-1", spool.epoch)] == Published(1, 20, 15, 0)
    spool.close()


def fill(spool: Spool) -> None:
    while True:
        spool.append([bytes(5_000)])
        spool.commit()


@pytest.mark.may_skip("mounting is a right that containers seldom have")
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_on_a_real_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", disk], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    try:
        spool = Spool(folder_of(disk, "game-1"), "game-1", segment_bytes=65_536)
        with pytest.raises(SpoolWriteFailed):
            fill(spool)
        written = spool.last
        assert written > 50
        spool.confirm(spool.epoch, written)  # frees the segments, though not one byte was free for the marks
        assert spool.commit()
        assert spool.last == written + 1
        assert scan(disk)[("game-1", spool.epoch)].last == written + 1
        spool.close()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_damage_in_the_middle_costs_only_the_rest_of_its_segment(tmp_path):
    epoch = write(tmp_path, batches=[(n,) for n in range(1, 31)], segment_bytes=200)
    segments = sorted(tmp_path.glob("*.seg"))
    damaged = segments[1]
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    spool = Spool(tmp_path, "game-1")
    found, lost, first = [], [], 1
    while first <= 30:
        reading = spool.read(epoch, first, 30)
        assert reading is not None
        if reading.lost:
            assert reading.lost == "unreadable in the spool"
            lost += range(reading.first, reading.last + 1)
        found += [number for number, _ in decode_records(reading.records)[0]]
        first = reading.last + 1
    assert sorted(found + lost) == list(range(1, 31))
    assert 0 < len(lost) < 10
    spool.close()


def test_numbers_of_an_unknown_epoch_are_lost_and_numbers_to_come_are_not(tmp_path):
    spool = Spool(tmp_path, "game-1")
    reading = spool.read(12, 1, 5)
    assert reading is not None
    assert "no such epoch" in reading.lost
    assert spool.read(spool.epoch, 1, 5) is None
    spool.close()


def test_a_second_writer_is_told_who_holds_it(tmp_path):
    code = (
        "import sys; from pathlib import Path; from zmqgame_bus.spool import Spool\n"
        f"s = Spool(Path({str(tmp_path)!r}), 'game-1'); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(SpoolInUse, match=str(other.pid)):
            Spool(tmp_path, "game-1")
        other.kill()
    Spool(tmp_path, "game-1").close()


def test_a_spool_of_another_source_is_refused(tmp_path):
    Spool(tmp_path, "game-1").close()
    with pytest.raises(SpoolError, match="belongs to game-1"):
        Spool(tmp_path, "game-2")


def test_every_source_has_its_own_folder(tmp_path):
    names = ["a", "a/b", "a%2Fb", "..", "é" * 60, "é" * 61, "x" * 122]
    assert len({folder_of(tmp_path, name) for name in names}) == len(names)
    for name in names:
        folder = folder_of(tmp_path, name)
        assert folder.parent == tmp_path
        spool = Spool(folder, name)
        spool.append([b"x"])
        spool.commit()
        spool.close()
    assert {source for source, _ in scan(tmp_path)} == set(names)


def test_many_starts_are_summed_up(tmp_path):
    spool = Spool(tmp_path, "game-1")
    spool._marks = {
        epoch: spool_module.Mark(last=2, confirmed=2) for epoch in range(1, SPOOL_EPOCHS_MAX + 10)
    }
    spool._marks[spool.epoch] = spool_module.Mark()
    spool.close()
    again = Spool(tmp_path, "game-1")
    assert len(again._marks) == SPOOL_EPOCHS_MAX
    assert again._forgotten == 2 * 11
    again.close()
