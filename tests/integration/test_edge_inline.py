"""Serving inline: the handler on the loop's thread; rows, ticks, stop, failures, what it must not do."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from zmqgame_native import Edge, PacketBatch, WriteBatch

from tests.edge_tools import CLOSE, DEADLINE_S, OPEN, Consumer, dial, packet, parse, read_all


@contextmanager
def inline(handler: Callable[[PacketBatch], Any], edge: Edge, **options: Any) -> Iterator[str]:
    """An edge that is served inline beside the test; what ends the serving is raised at the end."""
    address, errors = edge.listen_tcp("127.0.0.1:0"), []

    def run() -> None:
        try:
            edge.serve(handler, inline=True, **options)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield address
    finally:
        edge.stop()
        thread.join(DEADLINE_S)
    assert not thread.is_alive()
    if errors:
        raise errors[0]


def answers(address: str, *packets: bytes) -> list[tuple[int, int, bytes]]:
    """What comes back until the server closes, which the last packet asks for."""
    with dial(address) as client:
        client.sendall(b"".join(packets))
        return parse(read_all(client))


@pytest.mark.parametrize("form", ["batch", "rows", "reply", "writes"])
def test_whatever_stands_for_writes_goes_out_in_order(form: str) -> None:
    """Closed by the handler after its answer, so the client sees all and an end."""
    edge, threads = Edge(), set()

    def handler(batch: PacketBatch) -> Any:
        threads.add(threading.get_ident())
        rows = [row for row in batch if row[1] < OPEN]
        for connection, _, _, payload in rows:
            if payload == b"end":
                edge.close(connection, "as asked")
        if form == "batch":
            return batch
        if form == "rows":
            return rows
        if form == "reply":
            return batch.reply([row[3] if row[1] < OPEN else None for row in batch])
        writes = WriteBatch()
        for connection, kind, sequence, payload in rows:
            writes.add(connection, payload, kind, sequence)
        return writes

    with inline(handler, edge) as address:
        sent = [(1, number, b"x" * number) for number in range(200)] + [(2, 200, b"end")]
        found = answers(address, *(packet(*row) for row in sent))
    assert found == sent
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_what_came_before_is_handled_first_and_what_comes_after_is_left() -> None:
    edge, seen, two = Edge(), [], threading.Event()

    def handler(batch: PacketBatch) -> None:
        seen.extend((kind, payload) for _, kind, _, payload in batch if kind != OPEN)
        if len(seen) == 2:
            two.set()
        if b"fail" in batch.payloads():
            raise ZeroDivisionError

    address = edge.listen_tcp("127.0.0.1:0")
    client = dial(address)
    client.sendall(packet(1, 1, b"before"))
    assert edge.wait(int(DEADLINE_S * 1000))
    failed: list[BaseException] = []

    def run() -> None:
        try:
            edge.serve(handler, inline=True)
        except ZeroDivisionError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    client.sendall(packet(1, 2, b"then"))
    assert two.wait(DEADLINE_S)
    assert seen == [(1, b"before"), (1, b"then")]
    client.sendall(packet(1, 3, b"fail"))
    thread.join(DEADLINE_S)
    assert failed
    client.sendall(packet(1, 4, b"after"))
    client.close()
    consumer = Consumer(edge)
    rows = consumer.until(lambda rows: any(row[1] == CLOSE for row in rows))
    assert [row[3] for row in rows if row[1] < OPEN] == [b"after"]
    edge.stop()


def test_the_handler_may_stop_and_what_it_returns_is_sent() -> None:
    edge = Edge()

    def handler(batch: PacketBatch) -> PacketBatch:
        if b"stop" in batch.payloads():
            edge.stop()
        return batch

    with inline(handler, edge) as address:
        assert answers(address, packet(1, 1, b"stop")) == [(1, 1, b"stop")]


def test_the_ticker_runs_and_may_change_its_interval() -> None:
    edge, ticks, last = Edge(), [], threading.Event()

    def on_tick() -> int:
        ticks.append(threading.get_ident())
        if len(ticks) == 3:
            last.set()
            return 0
        return 1

    with inline(lambda batch: batch, edge, on_tick=on_tick, tick_ms=1):
        assert last.wait(DEADLINE_S)
    assert len(ticks) == 3
    assert len(set(ticks)) == 1


def test_a_failing_ticker_ends_the_serving() -> None:
    edge = Edge()
    with pytest.raises(ZeroDivisionError):
        edge.serve(lambda batch: batch, on_tick=lambda: 1 // 0, tick_ms=1, inline=True)
    edge.stop()


def test_what_would_wait_for_its_own_loop_is_refused() -> None:
    edge, refused, over = Edge(), [], threading.Event()

    def on_tick() -> int:
        for call in (
            lambda: edge.connect_tcp("127.0.0.1:1"),
            lambda: edge.connect_unix("/nowhere"),
            lambda: edge.connect_websocket("ws://127.0.0.1:1/"),
            lambda: edge.listen_udp_plain("127.0.0.1:0"),
            lambda: edge.listen_udp("127.0.0.1:0", protocol_id=1, private_key=bytes(32)),
        ):
            with pytest.raises(RuntimeError, match="inline"):
                call()
            refused.append(call)
        over.set()
        return 0

    with inline(lambda batch: batch, edge, on_tick=on_tick, tick_ms=1):
        assert over.wait(DEADLINE_S)
    assert len(refused) == 5
    many = Edge(loops=2)
    with pytest.raises(ValueError, match="one loop"):
        many.serve(lambda batch: batch, inline=True)
    many.stop()


def test_it_is_served_once_at_a_time_and_again() -> None:
    edge, began = Edge(), threading.Event()
    with inline(lambda batch: batch, edge, on_tick=began.set, tick_ms=1):
        assert began.wait(DEADLINE_S)
        with pytest.raises(RuntimeError, match="served already"):
            edge.serve(lambda batch: batch)
        with pytest.raises(RuntimeError, match="served already"):
            edge.serve(lambda batch: batch, inline=True)
