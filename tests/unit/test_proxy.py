"""The proxy of the tests: each fault is what it says, seen from both ends."""

import asyncio
import contextlib

import pytest

from tests.support.proxy import DOWN, UP, Route

SOON_S = 60.0
NOT_YET_S = 0.1


@pytest.fixture
async def echo():
    """A server that writes down what it got and says it again, and a route to it."""
    got = bytearray()

    async def serve(reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(100):
                got.extend(data)
                writer.write(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    route = await Route("echo", server.sockets[0].getsockname()).start()
    yield route, got
    await route.close()
    server.close()


async def connected(route):
    return await asyncio.open_connection("127.0.0.1", route.port)


async def said(reader, count):
    return await asyncio.wait_for(reader.readexactly(count), SOON_S)


async def silent(reader):
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), NOT_YET_S)
    return True


async def reaches(got, expected):
    for _ in range(int(SOON_S * 100)):
        if bytes(got) == expected:
            return
        await asyncio.sleep(0.01)
    assert bytes(got) == expected


async def over(reader):
    try:
        return await asyncio.wait_for(reader.read(1), SOON_S) == b""
    except ConnectionResetError:
        return True


async def test_bytes_pass_both_ways(echo):
    route, _ = echo
    reader, writer = await connected(route)
    writer.write(b"hello")
    assert await said(reader, 5) == b"hello"
    writer.close()


async def test_a_cut_ends_connections_and_refuses_new_ones_until_mended(echo):
    route, _ = echo
    reader, _ = await connected(route)
    again, writer = await connected(route)
    writer.write(b"x")
    assert await said(again, 1) == b"x"
    route.cut(refuse=True)
    assert await over(reader)
    assert await over(again)
    assert await over((await connected(route))[0])
    route.mend()
    reader, writer = await connected(route)
    writer.write(b"y")
    assert await said(reader, 1) == b"y"


@pytest.mark.parametrize("way", [UP, DOWN])
async def test_what_is_stalled_comes_later_and_whole(echo, way):
    route, got = echo
    reader, writer = await connected(route)
    route.stall(way)
    writer.write(b"late")
    assert await silent(reader)
    await reaches(got, b"" if way == UP else b"late")
    route.mend()
    assert await said(reader, 4) == b"late"


@pytest.mark.parametrize("way", [UP, DOWN])
async def test_what_is_swallowed_never_comes_and_then_the_connection_ends(echo, way):
    route, got = echo
    reader, writer = await connected(route)
    route.swallow(way)
    writer.write(b"gone")
    assert await silent(reader)
    route.mend()
    assert await over(reader)
    await reaches(got, b"" if way == UP else b"gone")


async def test_a_delay_holds_each_piece_back_and_keeps_the_order(echo):
    route, _ = echo
    reader, writer = await connected(route)
    route.delay(0.15)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for piece in (b"one", b"two"):
        writer.write(piece)
        await asyncio.sleep(0.01)
    assert await said(reader, 6) == b"onetwo"
    assert loop.time() - began >= 0.3, "there and back"
