"""WebSocket clients that are not ours, behind one interface: `websockets`, Node's `ws`, Chromium.

Each runs the scenarios of tests/websocket/scenarios.js (Python: the same again) and gives what it saw.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

ROOT = Path(__file__).resolve().parents[1]
SCENARIOS = ROOT / "tests" / "websocket" / "scenarios.js"
DEADLINE_S = 60.0
Result = dict[str, Any]


class Client(Protocol):
    """Runs a scenario against a server."""

    name: str

    def run(self, url: str, scenario: str, **arguments: object) -> Result:
        """Give what the scenario gives."""


def packet(sequence: int, size: int) -> bytes:
    """The packet of scenarios.js."""
    payload = bytes((sequence * 31 + at) & 255 for at in range(size))
    return struct.pack("<BBHQ", 3, 0, 0, sequence) + payload


class PythonClient:
    """The library `websockets`, which offers permessage-deflate by itself."""

    name = "websockets"

    def run(self, url: str, scenario: str, **arguments: object) -> Result:
        """Run one scenario."""
        context = None
        if url.startswith("wss"):
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with connect(url, proxy=None, ssl=context, max_size=None, close_timeout=DEADLINE_S) as client:
            return getattr(self, scenario)(client, **arguments)

    @staticmethod
    def _closed(client: ClientConnection) -> Result:
        frame = client.protocol.close_rcvd
        return {
            "code": frame.code if frame else 1006,
            "reason": frame.reason if frame else "",
            "clean": bool(frame),
        }

    def echo(self, client: ClientConnection, sizes: list[int]) -> Result:
        """See scenarios.js."""
        sent = [packet(number, size) for number, size in enumerate(sizes)]
        for message in sent:
            client.send(message)
        equal = sum(client.recv(timeout=DEADLINE_S) == message for message in sent)
        client.close(3001, "enough")
        extensions = ",".join(extension.name for extension in client.protocol.extensions)
        return {"equal": equal, "extensions": extensions, "closed": self._closed(client)}

    def refused(self, client: ClientConnection, text: str | None = None, bytes: int = 0) -> Result:
        """See scenarios.js."""
        with contextlib.suppress(ConnectionClosed):
            client.send(packet(1, bytes - 12) if text is None else text)
            client.recv(timeout=DEADLINE_S)
        return {"closed": self._closed(client)}

    def told(self, client: ClientConnection) -> Result:
        """See scenarios.js."""
        client.send(packet(1, 1))
        with contextlib.suppress(ConnectionClosed):
            while True:
                client.recv(timeout=DEADLINE_S)
        return {"closed": self._closed(client)}

    def pieces(self, client: ClientConnection, size: int, each: int) -> Result:
        """See scenarios.js."""
        whole, pongs = packet(7, size), []

        def parts() -> Iterator[bytes]:
            for at in range(0, len(whole), each):
                yield whole[at : at + each]
                pongs.append((str(at), client.ping(str(at))))

        client.send(parts())
        equal = client.recv(timeout=DEADLINE_S) == whole
        seen = [text for text, pong in pongs if pong.wait(DEADLINE_S)]
        client.close(1000)
        return {"equal": equal, "pongs": seen, "closed": self._closed(client)}


class NodeClient:
    """Node's `ws`."""

    name = "ws"

    def __init__(self) -> None:
        self.folder = ROOT / "target" / "websocket"

    def missing(self) -> str | None:
        """What is not installed."""
        installed = shutil.which("node") and (self.folder / "node_modules" / "ws").is_dir()
        return None if installed else "Node's ws is not installed: tests/install-system-packages"

    def run(self, url: str, scenario: str, **arguments: object) -> Result:
        """Run one scenario in a process of its own."""
        script = ROOT / "tests" / "websocket" / "node_client.js"
        command = ["node", str(script), str(self.folder), url, scenario, json.dumps(arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        assert done.returncode == 0, done.stderr
        result: Result = json.loads(done.stdout)
        return result


class ChromiumClient:
    """Headless Chromium, driven through its debugging port."""

    name = "chromium"

    def __init__(self, page: ClientConnection) -> None:
        self.page = page
        self.calls = 0
        self.evaluate(SCENARIOS.read_text() + ";globalThis.scenarios = scenarios; 1")

    def evaluate(self, expression: str) -> Any:
        """Run JavaScript in the page; its awaited value."""
        self.calls += 1
        parameters = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        self.page.send(json.dumps({"id": self.calls, "method": "Runtime.evaluate", "params": parameters}))
        while True:
            answer = json.loads(self.page.recv(timeout=DEADLINE_S))
            if answer.get("id") == self.calls:
                assert "exceptionDetails" not in answer["result"], answer
                return answer["result"]["result"].get("value")

    def run(self, url: str, scenario: str, **arguments: object) -> Result:
        """Run one scenario in the page."""
        make = f"() => new WebSocket({json.dumps(url)})"
        result: Result = self.evaluate(f"scenarios.{scenario}({make}, {json.dumps(arguments)})")
        return result


def missing_chromium() -> str | None:
    """Whether there is no Chromium."""
    return None if shutil.which("chromium") else "chromium is not installed: tests/install-system-packages"


def _page_of(folder: Path, process: subprocess.Popen[bytes]) -> str:
    """The debugging address of a browser's first page, once there is one."""
    end, file = time.monotonic() + DEADLINE_S, folder / "DevToolsActivePort"
    while True:
        assert process.poll() is None, "chromium has ended"
        assert time.monotonic() < end, "chromium does not start"
        time.sleep(0.05)
        if not (file.exists() and "\n" in file.read_text()):
            continue
        with urllib.request.urlopen(f"http://127.0.0.1:{file.read_text().split()[0]}/json/list") as answer:
            for page in json.load(answer):
                if page["type"] == "page":
                    return str(page["webSocketDebuggerUrl"])


@contextmanager
def chromium() -> Iterator[ChromiumClient]:
    """A browser with an empty profile."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        options = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
        ]
        # The tests' certificates are made for the moment.
        options += [
            "--ignore-certificate-errors",
            "--disable-background-networking",
            "--disable-component-update",
        ]
        options += ["--remote-debugging-port=0", "--remote-allow-origins=*", f"--user-data-dir={name}"]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(["chromium", *options, "about:blank"], start_new_session=True, **quiet)
        try:
            with connect(_page_of(Path(name), process), proxy=None, max_size=None) as page:
                yield ChromiumClient(page)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def bytewise(address: str) -> Iterator[str]:
    """A proxy that passes every byte on by itself, in both directions; its address."""
    host, port = address.rsplit(":", 1)
    listener = socket.create_server(("127.0.0.1", 0))
    sockets: list[socket.socket] = [listener]

    def forward(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                for byte in data:
                    target.sendall(bytes([byte]))
            target.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection((host, int(port)))
                sockets.extend((client, server))
                for one, other in ((client, server), (server, client)):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(target=forward, args=(one, other), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
