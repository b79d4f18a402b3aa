"""Clients that end only their own half are answered, however Python serves; ends that must come, come."""

import asyncio
import contextlib
import gc
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from zmqgame_native import Edge, PacketBatch

from tests.edge_tools import CLOSE, DEADLINE_S, Consumer, dial, packet, parse, read_all, running, until

ROUNDS = 30


def ask_and_end(address: str) -> None:
    """All is sent, the end too, before anything is read; every answer is there."""
    for number in range(1, ROUNDS + 1):
        with dial(address) as client:
            sent = [(1, sequence, bytes(number * 50)) for sequence in range(5)]
            client.sendall(b"".join(packet(*row) for row in sent))
            client.shutdown(socket.SHUT_WR)
            assert parse(read_all(client)) == sent


def by_thread(edge: Edge, work: Callable[[], Any], end: Callable[[], Any]) -> None:
    address = edge.listen_tcp("127.0.0.1:0")
    thread = threading.Thread(target=work)
    thread.start()
    try:
        ask_and_end(address)
        until(lambda: edge.connections == 0)
    finally:
        end()
        thread.join(DEADLINE_S)
        edge.stop()
    assert not thread.is_alive()


@pytest.mark.parametrize("inline", [False, True])
def test_who_ends_its_half_is_answered_by_a_handler(inline: bool) -> None:
    edge = Edge()
    by_thread(edge, lambda: edge.serve(lambda batch: batch, inline=inline), edge.stop)


def test_who_ends_its_half_is_answered_by_a_consumer() -> None:
    edge, over = Edge(), threading.Event()

    def consume() -> None:
        while not over.is_set():
            edge.wait(20)
            edge.send(edge.receive())

    by_thread(edge, consume, over.set)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("late", [False, True])
def test_who_ends_its_half_is_answered_on_asyncio(new_loop: Any, late: bool) -> None:
    async def answer(batch: PacketBatch) -> PacketBatch:
        await asyncio.sleep(0.005)
        return batch

    async def main() -> None:
        edge = Edge()
        served = edge.serve_async(answer if late else lambda batch: batch)
        address = edge.listen_tcp("127.0.0.1:0")
        await asyncio.gather(*(asyncio.to_thread(ask_and_end, address) for _ in range(3)))
        await asyncio.to_thread(edge.stop)
        await served

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(asyncio.wait_for(main(), DEADLINE_S))


def test_after_its_answers_a_connection_is_closed_for_good() -> None:
    with running() as (edge, consumer):
        client = dial(edge.listen_tcp("127.0.0.1:0"))
        client.sendall(packet(1, 1, b"question"))
        client.shutdown(socket.SHUT_WR)
        # Its rows and the close row come in one batch or in two; in between nothing else is asked for.
        until(lambda: consumer.rows.extend(edge.receive()) or any(row[1] == CLOSE for row in consumer.rows))
        connection = consumer.rows[0][0]
        assert edge.send([(connection, 2, 1, b"answer")]) == 0
        edge.receive()
        assert parse(read_all(client)) == [(2, 1, b"answer")]
        until(lambda: edge.connections == 0)
        assert edge.send([(connection, 2, 2, b"too late")]) == 1


def test_what_a_client_sent_before_it_left_a_paused_connection_is_there_when_it_is_resumed() -> None:
    with running() as (edge, consumer):
        client = dial(edge.listen_tcp("127.0.0.1:0", framing="raw"))
        (connection,) = consumer.opened()
        edge.pause(connection)
        edge.send([(connection, 0, 0, b"paused")])
        assert client.recv(100) == b"paused"
        client.sendall(b"last words")
        client.close()
        assert not edge.wait(300)
        edge.resume(connection)
        assert consumer.close_reason(connection) == "closed by the client"
        assert consumer.packets(connection) == [(0, 0, b"last words")]


def connect_until_refused(edge: Edge, address: str) -> None:
    with contextlib.suppress(OSError):
        while True:
            edge.close(edge.connect_tcp(address, framing="raw"))


def test_a_stop_leaves_nobody_who_connects_waiting() -> None:
    """Threads that connect over and over while it stops: each gets a connection or an error, at once."""
    for _ in range(5):
        server, edge = Edge(), Edge(loops=2)
        arguments = (edge, server.listen_tcp("127.0.0.1:0", framing="raw"))
        threads = [
            threading.Thread(target=connect_until_refused, args=arguments, daemon=True) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        until(lambda server=server: server.counters()["accepted"] >= 4)
        edge.stop(0)
        for thread in threads:
            thread.join(DEADLINE_S)
        assert [thread.is_alive() for thread in threads] == [False] * 4
        server.stop(0)


def test_an_edge_that_nobody_holds_any_more_ends() -> None:
    edge = Edge(loops=2)
    client = dial(edge.listen_tcp("127.0.0.1:0", framing="raw"))
    Consumer(edge).opened()
    del edge
    gc.collect()
    assert read_all(client) == b""


def test_requests_for_nobody_leave_nothing_in_the_queues() -> None:
    with running() as (edge, _):
        for connection in range(1 << 32, (1 << 32) + 5_000):
            edge.close(connection, "x" * 10_000)
            edge.pause(connection)
        counters = edge.counters()
        assert counters["queue_bytes_now"] < 65_536
        assert counters["threads_died"] == 0
