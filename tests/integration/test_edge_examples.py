"""The edge's examples in examples/, each run as a user runs it."""

import http.client
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
