"""Serving: a handler gets batches and returns writes; blocking, asyncio, uvloop; stop, errors, ticks."""

import array
import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import pytest
import uvloop
from zmqgame_native import Edge, PacketBatch, WriteBatch

from tests.edge_tools import DEADLINE_S, OPEN, dial, packet, parse, read_all, until

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@contextmanager
def serving(handler: Callable[[PacketBatch], Any], **options: Any) -> Iterator[tuple[Edge, str]]:
    """An edge that a thread serves; what ends the serving is raised at the end."""
    edge = Edge()
    address = edge.listen_tcp("127.0.0.1:0")
    errors: list[BaseException] = []

    def run() -> None:
        try:
            edge.serve(handler, **options)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield edge, address
    finally:
        edge.stop()
        thread.join(DEADLINE_S)
    assert not thread.is_alive()
    if errors:
        raise errors[0]


def read_packets(client: socket.socket, count: int) -> list[tuple[int, int, bytes]]:
    data = b""
    while True:
        try:
            rows = parse(data)
        except Exception:
            rows = []
        if len(rows) >= count and sum(16 + len(row[2]) for row in rows) == len(data):
            return rows
        piece = client.recv(65_536)
        assert piece
        data += piece


def test_a_whole_batch_goes_back_and_opens_do_not() -> None:
    with serving(lambda batch: batch) as (edge, address):
        clients = [dial(address) for _ in range(3)]
        for number, client in enumerate(clients):
            client.sendall(packet(1, number, b"a" * number) + packet(2, 9, b"b"))
        for number, client in enumerate(clients):
            assert read_packets(client, 2) == [(1, number, b"a" * number), (2, 9, b"b")]
        assert edge.counters()["refused_closed"] == 0


def test_rows_replies_and_columns_are_sent_alike() -> None:
    def rows(batch: PacketBatch) -> Any:
        return [(c, k, s, bytearray(p)) for c, k, s, p in batch if k < OPEN]

    def reply(batch: PacketBatch) -> Any:
        return batch.reply([None if k >= OPEN else p for _, k, _, p in batch])

    def columns(batch: PacketBatch) -> Any:
        mine = numpy.frombuffer(batch.kind, numpy.uint8) < OPEN
        picked = [
            numpy.asarray(column)[mine]
            for column in (batch.connection, batch.offset, batch.length, batch.kind, batch.sequence)
        ]
        connection, offset, length, kind, sequence = picked
        return WriteBatch.columns(connection, bytearray(batch.arena), offset, length, kind, sequence)

    for handler in (rows, reply, columns):
        with serving(handler) as (_, address):
            client = dial(address)
            client.sendall(packet(3, 2**63, b"one") + packet(4, 0, b""))
            assert read_packets(client, 2) == [(3, 2**63, b"one"), (4, 0, b"")]


def test_a_broadcast_reaches_all_from_one_copy() -> None:
    here: list[int] = []

    def handler(batch: PacketBatch) -> WriteBatch:
        writes = WriteBatch()
        for connection, kind, sequence, payload in batch:
            if kind == OPEN:
                here.append(connection)
            elif kind < OPEN and payload:
                writes.broadcast(array.array("Q", here), payload, 7, sequence)
        return writes

    with serving(handler) as (_, address):
        clients = [dial(address) for _ in range(4)]
        for client in clients:
            client.sendall(packet(1, 0))
        until(lambda: len(here) == 4, "all are here")
        clients[0].sendall(packet(1, 5, b"to all"))
        for client in clients:
            assert read_packets(client, 1) == [(7, 5, b"to all")]


def test_a_handler_that_blocks_does_not_stall_io() -> None:
    """While the handler stands still, connections are taken in, packets read, and others' writes go out."""
    inside, go_on = threading.Event(), threading.Event()
    opened: list[int] = []

    def handler(batch: PacketBatch) -> PacketBatch:
        opened.extend(connection for connection, kind, _, _ in batch if kind == OPEN)
        if any(payload == b"block" for payload in batch.payloads()):
            inside.set()
            assert go_on.wait(DEADLINE_S)
        return batch

    with serving(handler) as (edge, address):
        first = dial(address)
        first.sendall(packet(1, 1, b"block"))
        assert inside.wait(DEADLINE_S)
        others = [dial(address) for _ in range(5)]
        for other in others:
            other.sendall(packet(1, 2, b"meanwhile"))
        until(lambda: edge.counters()["packets_in"] == 6, "packets are read meanwhile")
        assert edge.send([(opened[0], 9, 9, b"from another thread")]) == 0
        assert read_packets(first, 1) == [(9, 9, b"from another thread")]
        go_on.set()
        for other in others:
            assert read_packets(other, 1) == [(1, 2, b"meanwhile")]


def test_the_handler_may_stop_and_what_it_returns_is_sent() -> None:
    def handler(batch: PacketBatch) -> PacketBatch:
        if b"stop" in batch.payloads():
            edge.stop()
        return batch

    with serving(handler) as (edge, address):
        client = dial(address)
        client.sendall(packet(1, 1, b"stop"))
        assert parse(read_all(client)) == [(1, 1, b"stop")]


def test_an_exception_ends_the_serving_and_not_the_edge() -> None:
    edge = Edge()
    client = dial(edge.listen_tcp("127.0.0.1:0"))
    client.sendall(packet(1, 1, b"x"))
    with pytest.raises(ZeroDivisionError):
        edge.serve(lambda batch: 1 // 0)  # type: ignore[arg-type,return-value]
    client.sendall(packet(1, 2, b"y"))

    def handler(batch: PacketBatch) -> PacketBatch:
        with pytest.raises(RuntimeError, match="served already"):
            edge.serve(handler)
        edge.stop()
        return batch

    edge.serve(handler)
    assert parse(read_all(client))[-1] == (1, 2, b"y")


def test_the_ticker_sets_its_interval_and_ends() -> None:
    intervals = iter([1, None, 2, 0])
    ticked = threading.Event()

    def on_tick() -> int | None:
        interval = next(intervals)
        if interval == 0:
            ticked.set()
        return interval

    with serving(lambda batch: None, on_tick=on_tick, tick_ms=5):
        assert ticked.wait(DEADLINE_S)
    with pytest.raises(ValueError, match="go together"):
        Edge().serve(lambda batch: None, tick_ms=5)


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it(number: int, inline: bool) -> None:
    code = (
        "import signal; from zmqgame_native import Edge; edge = Edge()\n"
        "for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, lambda *_: edge.stop())\n"
        "print(edge.listen_tcp('127.0.0.1:0'), flush=True)\n"
        f"edge.serve(lambda batch: batch, inline={inline}); print('stopped', flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        client = dial(process.stdout.readline().strip())
        client.sendall(packet(1, 1, b"x"))
        assert read_packets(client, 1) == [(1, 1, b"x")]
        os.kill(process.pid, number)
        assert process.communicate(timeout=DEADLINE_S)[0] == "stopped\n"
        assert process.returncode == 0


async def talk(address: str, *payloads: bytes) -> list[bytes]:
    host, port = address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    got = []
    for number, payload in enumerate(payloads):
        writer.write(packet(1, number, payload))
        head = await reader.readexactly(16)
        got.append(await reader.readexactly(int.from_bytes(head[:4], "little") - 12))
    writer.close()
    return got


def run(name: str, main: Callable[[], Any]) -> None:
    with asyncio.Runner(loop_factory=LOOPS[name]) as runner:
        runner.run(asyncio.wait_for(main(), DEADLINE_S))


@pytest.mark.parametrize("name", LOOPS)
def test_serving_on_an_asyncio_loop_beside_other_tasks(name: str) -> None:
    async def main() -> None:
        edge, ticked = Edge(), asyncio.Event()
        served = edge.serve_async(lambda batch: batch, on_tick=ticked.set, tick_ms=2)
        with pytest.raises(RuntimeError, match="served already"):
            edge.serve_async(lambda batch: batch)
        address = edge.listen_tcp("127.0.0.1:0")
        answers = await asyncio.gather(*(talk(address, b"a", b"bc") for _ in range(10)))
        assert answers == [[b"a", b"bc"]] * 10
        ticked.clear()
        await ticked.wait()
        await asyncio.to_thread(edge.stop)
        await served

    run(name, main)


@pytest.mark.parametrize("name", LOOPS)
def test_a_coroutine_handles_one_batch_at_a_time(name: str) -> None:
    async def main() -> None:
        edge, inside = Edge(), 0

        async def handler(batch: PacketBatch) -> PacketBatch:
            nonlocal inside
            assert inside == 0
            inside += 1
            await asyncio.sleep(0.001)
            inside -= 1
            if b"stop" in batch.payloads():
                edge.stop()
            return batch

        served = edge.serve_async(handler)
        address = edge.listen_tcp("127.0.0.1:0")
        answers = await asyncio.gather(*(talk(address, b"a", b"bc", b"def") for _ in range(20)))
        assert answers == [[b"a", b"bc", b"def"]] * 20
        assert await talk(address, b"stop") == [b"stop"]
        await served

    run(name, main)


@pytest.mark.parametrize("name", LOOPS)
def test_a_stop_drains_beside_the_loop(name: str) -> None:
    """The client, on the same loop, is told and takes its time; a stop on the loop would be over before."""

    async def main() -> None:
        edge = Edge()
        served = edge.serve_async(lambda batch: batch)
        host, port = edge.listen_tcp("127.0.0.1:0").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(packet(1, 1, b"a"))
        await reader.readexactly(17)
        edge.stop(int(DEADLINE_S * 1000))
        assert await reader.read() == b""
        assert not served.done()
        writer.close()
        await served

    run(name, main)


@pytest.mark.parametrize("name", LOOPS)
def test_errors_and_cancellation_end_serving_on_asyncio(name: str) -> None:
    async def main() -> None:
        edge = Edge()
        address = edge.listen_tcp("127.0.0.1:0")

        async def fails(batch: PacketBatch) -> None:
            raise ZeroDivisionError

        for handler in (fails, lambda batch: 1 // 0):
            served = edge.serve_async(handler)  # type: ignore[arg-type]
            client = dial(address)
            client.sendall(packet(1, 1, b"x"))
            with pytest.raises(ZeroDivisionError):
                await served
        cancelled = edge.serve_async(lambda batch: batch)
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        again = edge.serve_async(lambda batch: batch)
        assert await talk(address, b"still") == [b"still"]
        await asyncio.to_thread(edge.stop)
        await again

    run(name, main)


@pytest.mark.parametrize("name", LOOPS)
def test_serving_ends_although_the_wake_up_of_the_stop_went_with_a_batch(name: str) -> None:
    async def main() -> None:
        edge = Edge()

        def handler(batch: PacketBatch) -> None:
            stop = threading.Thread(target=edge.stop, args=(0,))
            stop.start()
            stop.join()
            edge.receive()

        served = edge.serve_async(handler)
        with dial(edge.listen_tcp("127.0.0.1:0", framing="raw")):
            await served

    run(name, main)


@pytest.mark.parametrize("name", LOOPS)
def test_every_stop_from_the_loops_thread_ends_the_serving(name: str) -> None:
    async def main() -> None:
        for _ in range(300):
            edge = Edge()
            served = edge.serve_async(lambda batch: batch)
            edge.stop()
            await served

    run(name, main)


@pytest.mark.parametrize("name", LOOPS)
def test_a_stop_by_another_task_does_not_wait_for_the_handler(name: str) -> None:
    async def main() -> None:
        edge, inside, go_on = Edge(), asyncio.Event(), asyncio.Event()

        async def handler(batch: PacketBatch) -> None:
            inside.set()
            await go_on.wait()

        served = edge.serve_async(handler)
        address = edge.listen_tcp("127.0.0.1:0", framing="raw")
        with dial(address) as client:
            await inside.wait()
            edge.stop(int(DEADLINE_S * 1000))
            # The handler still waits, and would for ever if the stop waited for it.
            assert await asyncio.to_thread(read_all, client) == b""
            assert not served.done()
        with pytest.raises(OSError, match="stop"):
            edge.listen_tcp("127.0.0.1:0")
        go_on.set()
        await served

    run(name, main)


@pytest.mark.parametrize("name", LOOPS)
def test_stops_on_the_loop_are_bounded(name: str) -> None:
    async def main() -> None:
        edge, opened = Edge(), asyncio.Event()
        served = edge.serve_async(lambda batch: opened.set())
        with dial(edge.listen_tcp("127.0.0.1:0", framing="raw")):
            await opened.wait()
            for _ in range(16):
                edge.stop(int(DEADLINE_S * 1000))
            with pytest.raises(RuntimeError, match="16 stops"):
                edge.stop()
            assert not served.done()
        await served

    run(name, main)
