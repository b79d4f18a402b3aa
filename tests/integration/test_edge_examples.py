"""The edge's examples in examples/, each run as a user runs it."""

import contextlib
import http.client
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.edge_tools import DEADLINE_S, dial, read_all

EXAMPLES = Path(__file__).parents[2] / "examples"


@contextmanager
def example(name: str) -> Iterator[str]:
    """The example as a process; gives its address."""
    command = [sys.executable, str(EXAMPLES / name), "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            assert process.poll() is None, "the example has ended by itself"
            process.kill()


def test_echo() -> None:
    with example("echo.py") as address:
        clients = [dial(address) for _ in range(3)]
        for number, client in enumerate(clients):
            client.sendall(b"hello" * (number + 1))
        for number, client in enumerate(clients):
            assert client.recv(100, 0x100) == b"hello" * (number + 1)


def test_http_hello_keeps_alive_pipelines_and_refuses() -> None:
    with example("http_hello.py") as address:
        connection = http.client.HTTPConnection(address, timeout=DEADLINE_S)
        for method, body in (("GET", None), ("POST", b"x" * 100_000), ("GET", None)):
            connection.request(method, "/", body)
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, b"hello\n")
        connection.close()
        client = dial(address)
        client.sendall(
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        both = read_all(client)
        assert both.count(b"HTTP/1.1 200") == both.count(b"hello\n") == 2
        client = dial(address)
        client.sendall(b"no http\r\n\r\n")
        assert read_all(client).startswith(b"HTTP/1.1 400")


GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
CHUNKS = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
# What a client sends: which statuses come back, and how many bodies, before the server closes.
HARD = {
    "bytes behind the last request": (LAST + b"and more", [200], 1),
    "a request behind the last one": (LAST + GET, [200], 1),
    "garbage of many reads": (b"no http\r\n\r\n" + bytes(200_000), [400], 0),
    "a header without end": (b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000, [431], 0),
    "garbage in the place of a second request": (GET + b"no http\r\n\r\n", [200, 400], 1),
    "trailers": (CHUNKS + b"1\r\nx\r\n0\r\nX: y\r\n\r\n", [200], 1),
    "a chunk that is none": (CHUNKS + b"one\r\n", [200], 1),
    "a tunnel": (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n" + b"\x16\x03\x01", [405], 0),
}


@pytest.mark.parametrize("name", HARD)
def test_no_client_ends_http_hello(name: str) -> None:
    sent, statuses, bodies = HARD[name]
    with example("http_hello.py") as address:
        client = dial(address)
        with contextlib.suppress(ConnectionError):  # it may be closed before all is sent
            client.sendall(sent)
        got = read_all(client)
        found = [int(status) for status in re.findall(rb"HTTP/1.1 (\d+)", got)]
        # Who is closed with bytes unread gets a reset, which may overtake the answer.
        assert found == statuses[: len(found)]
        assert found or len(sent) > 65_536
        assert got.count(b"hello\n") <= bodies
        says_hello(address)


def test_http_hello_answers_head_without_a_body() -> None:
    with example("http_hello.py") as address:
        connection = http.client.HTTPConnection(address, timeout=DEADLINE_S)
        for method, body in (("HEAD", b""), ("GET", b"hello\n"), ("HEAD", b"")):
            connection.request(method, "/")
            answer = connection.getresponse()
            assert (answer.status, answer.headers["content-length"], answer.read()) == (200, "6", body)
        connection.close()


def says_hello(address: str) -> None:
    connection = http.client.HTTPConnection(address, timeout=DEADLINE_S)
    connection.request("GET", "/")
    assert connection.getresponse().read() == b"hello\n"
    connection.close()


def test_chat() -> None:
    with example("chat.py") as address:
        people = [dial(address) for _ in range(3)]
        # Who has heard oneself is there.
        for number, person in enumerate(people):
            person.sendall(b"I am %d\n" % number)
            heard = person.makefile("rb")
            while heard.readline() != b"I am %d\n" % number:
                pass
        people[0].sendall(b"good ")
        people[0].sendall(b"morning\r\n")
        for person in people[1:]:
            heard = person.makefile("rb")
            while heard.readline() != b"good morning\n":
                pass
