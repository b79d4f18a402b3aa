"""Many connections: held silently, or opened and closed all the time. Neither may leave anything behind."""

from __future__ import annotations

import asyncio
import base64
import os
import random
import socket
import ssl
import struct
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from tests.certificates import certificate
from tests.load._options import left
from tests.load._server import Server, raise_descriptors, running

# A client packet: length, kind, flags, reserved, sequence, payload (CLIENT.md).
PING = struct.pack("<IBBHQ", 16, 1, 0, 0, 1) + b"ping"
# As many source addresses, so that ports in TIME_WAIT don't run out: 28,000 an address, for a minute.
SOURCES = 8
# What an allocator may keep; of 60,000 connections that leak it would be 140 bytes each.
GROWN_BYTES = 8 << 20
# What an idle connection may cost of the server's memory.
MOST_BYTES = {"tcp": 2_048, "websocket": 6_144, "tls": 40_960}
# Fewer cost less than the megabytes that an allocator keeps now and then.
PRICED = 2_000
# How much later than usual a slow machine may be.
PATIENCE_S = 60.0
# Opened together; more would only wait in the backlog.
AT_ONCE = 200


async def open_one(server: Server, transport: str, index: int) -> tuple[Any, Any]:
    """A connection that has said something and was answered."""
    host, port = server.addresses["tls" if transport == "tls" else "tcp"].split(":")
    context = None
    if transport == "tls":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    source = (f"127.0.1.{1 + index % SOURCES}", 0)
    reader, writer = await asyncio.open_connection(host, int(port), local_addr=source, ssl=context)
    if transport == "websocket":
        key = base64.b64encode(os.urandom(16)).decode()
        request = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        writer.write(f"{request}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
    else:
        writer.write(PING)
        await reader.readexactly(len(PING))
    return reader, writer


async def open_many(server: Server, transport: str, count: int) -> list[Any]:
    """So many, some at a time."""
    limit, writers = asyncio.Semaphore(AT_ONCE), []

    async def one(index: int) -> None:
        async with limit:
            writers.append((await open_one(server, transport, index))[1])

    async with asyncio.TaskGroup() as group:
        for index in range(count):
            group.create_task(one(index))
    return writers


def settled(
    server: Server, connections: int, descriptors: int | None = None, timeout_s: float = PATIENCE_S
) -> dict[str, int]:
    """Its state once it has so many connections and descriptors, or what it is when that takes too long."""
    end = time.monotonic() + timeout_s
    while True:
        state = server.state()
        there = state["connections_now"], descriptors and state["descriptors"]
        held = state["memory_bytes_now"] if connections == 0 else 0
        if (there == (connections, descriptors) and not held) or time.monotonic() > end:
            return state
        time.sleep(0.05)


def hold(options: Namespace) -> dict[str, Any]:
    """Hold connections, see what one costs once its buffers are given back, close them."""
    room = raise_descriptors() - 100
    count = min(options.connections, room)
    if count < options.connections:
        print(f"this system allows {room} descriptors a process: {count} connections")
    with tempfile.TemporaryDirectory() as folder:
        tls = certificate(Path(folder)) if options.transport == "tls" else None
        limits = {"max_connections": count + 1_000, "idle_ms": 0, "handshake_ms": 60_000}
        with running(tls, **limits) as server:
            return asyncio.run(hold_with(server, options.transport, count, options.quiet))


def held(options: Namespace, found: dict[str, Any]) -> list[str]:
    """All were held, for the memory that is allowed, and nothing is left of them."""
    there, each, most = found["connections"], found["bytes_each"], MOST_BYTES[options.transport]
    wrong = left(found)
    if there != options.connections:
        wrong.append(f"{there} connections were held, not {options.connections}")
    if there >= PRICED and each > most:
        wrong.append(f"a connection of {options.transport} takes {each} bytes: the goal is {most}")
    return wrong


async def hold_with(server: Server, transport: str, count: int, quiet_s: float) -> dict[str, Any]:
    """The same with a server."""
    first = await open_many(server, transport, 100)
    before = settled(server, 100)
    many = await open_many(server, transport, count - 100)
    # Buffers go after a quiet time (QUIET_MS of the edge), looked at as often; on a slow machine later.
    await asyncio.sleep(quiet_s)
    end = time.monotonic() + PATIENCE_S
    while True:
        during = settled(server, count)
        each = (during["own_bytes"] - before["own_bytes"]) / (count - 100)
        if count < PRICED or each <= MOST_BYTES[transport] or time.monotonic() > end:
            break
        await asyncio.sleep(0.5)
    print(f"{during['connections_now']} connections of {transport}, {during['descriptors']} descriptors")
    for writer in first + many:
        writer.transport.abort()
    # The aborts are done by the loop, after this.
    after = await asyncio.to_thread(settled, server, 0, before["descriptors"] - 100)
    print(f"{each:.0f} bytes of user memory each; {after['descriptors']} descriptors when all are gone")
    return {
        "connections": during["connections_now"],
        "bytes_each": round(each),
        "load_average": round(os.getloadavg()[0], 1),
        "descriptors_left": after["descriptors"] - before["descriptors"] + 100,
        "connections_left": after["connections_now"],
        "buffer_bytes_left": after["memory_bytes_now"],
    }


def churn(options: Namespace) -> dict[str, Any]:
    """Open and close connections in all ways, so many a second; memory and descriptors stay."""
    seconds = options.seconds
    with running(max_connections=10_000) as server:
        # The first ones pay for what is made once.
        asyncio.run(churn_with(server, options.rate, min(5.0, seconds / 3)))
        before = settled(server, 0)
        lateness = asyncio.run(churn_with(server, options.rate, seconds))
        after = settled(server, 0, before["descriptors"])
    done = after["opened"] - before["opened"]
    closed = after["closed"] - before["closed"]
    grown = after["own_bytes"] - before["own_bytes"]
    print(f"{done} opened, {closed} closed in {seconds:.0f} s; memory {before['own_bytes'] >> 10} KB before,")
    print(f"{after['own_bytes'] >> 10} KB after; descriptors {before['descriptors']}, {after['descriptors']}")
    return {
        "opened": done,
        "closed": closed,
        "a_second": round(done / (seconds + lateness)),
        "load_average": round(os.getloadavg()[0], 1),
        "descriptors_left": after["descriptors"] - before["descriptors"],
        "own_bytes_grown": grown,
        "connections_left": after["connections_now"],
        "buffer_bytes_left": after["memory_bytes_now"],
    }


def churned(options: Namespace, found: dict[str, Any]) -> list[str]:
    """All were opened, in time, and closed, and nothing is left of them."""
    wrong, asked = left(found), int(options.rate * options.seconds)
    for name in ("opened", "closed"):
        if found[name] != asked:
            wrong.append(f"{found[name]} {name}, not {asked}")
    if found["a_second"] < options.rate * options.least:
        wrong.append(f"{found['a_second']} a second: fewer than {options.least} of {options.rate}")
    if found["own_bytes_grown"] > GROWN_BYTES:
        wrong.append(f"memory has grown by {found['own_bytes_grown']} bytes: the limit is {GROWN_BYTES}")
    return wrong


async def churn_with(server: Server, rate: int, seconds: float) -> float:
    """At a fixed rate, however long each takes; gives by how much the last was late."""
    start, count = time.monotonic(), int(rate * seconds)
    limit = asyncio.Semaphore(AT_ONCE)
    chance = random.Random(1)

    async def one(index: int, way: float) -> None:
        async with limit:
            _, writer = await open_one(server, "tcp", index)
            if way < 0.3:
                # A reset in place of an end.
                raw = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif way < 0.4:
                writer.write_eof()
            writer.close()

    async with asyncio.TaskGroup() as group:
        for index in range(count):
            ahead = start + index / rate - time.monotonic()
            if ahead > 0.002:
                await asyncio.sleep(ahead)
            group.create_task(one(index, chance.random()))
    return max(0.0, time.monotonic() - start - seconds)
