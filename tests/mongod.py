"""A document server for tests: FerretDB as a process of its own, or the replica set that MONGODB_URI names.

`Proxy` stands between a client and the server and can hold, cut or delay a named command.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import bson
import pymongo

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "tests" / "ferretdb" / "build"


class CannotBuild(Exception):
    """Why there is no server to start."""


def program() -> Path:
    """The server's program, built if it is not yet."""
    if shutil.which("go") is None:
        raise CannotBuild("go is not installed, which builds the document server of the tests")
    done = subprocess.run([BUILD], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotBuild(f"tests/ferretdb/build: {done.stderr[-2000:]}")
    return Path(done.stdout.strip())


class Mongod:
    """A server over a folder; it can be killed, stopped, and started again at its address."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self.binary = binary
        self.folder = folder
        self.port = 0
        self.process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        argv = [str(self.binary), str(self.folder / "data"), *([str(self.port)] if self.port else [])]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError((self.folder / "server.log").read_text()[-2000:])
        self.port = int(line.rpartition(":")[2].strip().strip("/"))

    def url(self, database: str = "", port: int = 0) -> str:
        """A database of its own, unless one is named."""
        return f"mongodb://127.0.0.1:{port or self.port}/{database or fresh_name()}"

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self._wait()

    def close(self) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self._wait()

    def _wait(self) -> None:
        assert self.process is not None
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Foreign:
    """The server that MONGODB_URI names; it can't be killed from here."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.made: set[str] = set()

    def url(self, database: str = "", port: int = 0) -> str:
        head, question, options = self.uri.partition("?")
        scheme, _, rest = head.partition("://")
        host = rest.partition("/")[0]
        if port:  # a proxy stands in front of one member
            user, at, _ = host.rpartition("@")
            host, options = f"{user}{at}127.0.0.1:{port}", "directConnection=true&serverMonitoringMode=poll"
        database = database or fresh_name()
        self.made.add(database)
        return f"{scheme}://{host}/{database}{'?' if options else question}{options}"

    @property
    def port(self) -> int:
        """Where a proxy connects; the first host of the URI."""
        host = self.uri.partition("://")[2].partition("/")[0].rpartition("@")[2].split(",")[0]
        return int(host.rpartition(":")[2]) if ":" in host else 27017

    def close(self) -> None:
        """The server is not ours to end, but the databases are ours to drop."""
        with pymongo.MongoClient(self.uri) as client:
            for name in self.made:
                client.drop_database(name)


def fresh_name() -> str:
    """A database that no other test has."""
    return f"zmqgame_test_{secrets.token_hex(6)}"


def start(folder: Path) -> "Mongod | Foreign":
    """The server of this run."""
    uri = os.environ.get("MONGODB_URI")
    return Foreign(uri) if uri else Mongod(program(), folder)


Command = dict[str, object]
Matcher = Callable[[Command], bool]


def inserts(collection: str, kind: str = "") -> Matcher:
    """Matches inserts into a collection of the mailbox; of the chain, only documents of a kind."""

    def matches(command: Command) -> bool:
        if command.get("insert") != f"mailbox_{collection}":
            return False
        documents = command.get("documents")
        return not kind or (isinstance(documents, list) and documents[0].get("kind") == kind)

    return matches


def finds(collection: str) -> Matcher:
    """Matches reads of a collection."""
    return lambda command: command.get("find") == f"mailbox_{collection}"


def deletes(collection: str) -> Matcher:
    """Matches deletes in a collection."""
    return lambda command: command.get("delete") == f"mailbox_{collection}"


class Fault:
    """What happens to the next command that matches, once.

    hold: it waits until `release`. cut: the connection ends before the server sees the command. late: the
    connection ends, and the server sees the command at `release`. unanswered: the server carries it out, and
    the connection ends before the answer.
    """

    def __init__(self, matches: Matcher, how: str, skip: int = 0) -> None:
        self.matches = matches
        self.how = how
        self.skip = skip
        self.met = threading.Event()
        self.done = threading.Event()
        self._go = threading.Event()

    def release(self, timeout_s: float = 60.0) -> None:
        """Let it through, and wait until the server has answered."""
        self._go.set()
        assert self.done.wait(timeout_s)

    def go(self) -> None:
        """Let it through, whenever it comes."""
        self._go.set()

    def wait_go(self) -> None:
        self._go.wait(120)


class Proxy:
    """A proxy for the document protocol: each command is looked at before it goes on."""

    def __init__(self, port: int) -> None:
        self._server = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.away = False
        self.seen: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def fault(self, matches: Matcher, how: str, skip: int = 0) -> Fault:
        """Plan a fault for the first match, or for a later one."""
        fault = Fault(matches, how, skip)
        with self._lock:
            self._faults.append(fault)
        return fault

    def cut_all(self) -> None:
        """End all connections."""
        with self._lock:
            for each in self._open:
                shut(each)

    def close(self) -> None:
        # Ends the waiting in `accept`: after a mere close it may go on with a newer socket of that number.
        shut(self._listener)
        self._listener.close()
        self.cut_all()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.away:
                client.close()
                continue
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self._server))
        with self._lock:
            self._open |= {client, server}
        try:
            while (message := receive(client)) is not None:
                if not self._pass(client, server, message):
                    return
        except OSError:
            pass
        finally:
            with self._lock:
                self._open -= {client, server}
            client.close()
            server.close()

    def _pass(self, client: socket.socket, server: socket.socket, message: bytes) -> bool:
        command = decode(message)
        fault = self._next(command)
        if fault is None:
            server.sendall(message)
            if (answer := receive(server)) is None:
                return False
            client.sendall(answer)
            return True
        fault.met.set()
        if fault.how in ("cut", "late", "unanswered"):
            if fault.how == "unanswered":
                server.sendall(message)
                receive(server)
            shut(client)
        if fault.how in ("hold", "late"):
            fault.wait_go()
            server.sendall(message)
            answer = receive(server)
            if fault.how == "hold" and answer is not None:
                client.sendall(answer)
        fault.done.set()
        return fault.how == "hold"

    def _next(self, command: Command) -> Fault | None:
        with self._lock:
            self.seen.append(next(iter(command), ""))
            for fault in self._faults:
                if fault.matches(command):
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    self._faults.remove(fault)
                    return fault
        return None


def shut(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)


def receive(source: socket.socket) -> bytes | None:
    """One message of the protocol; None at the end of the connection."""
    head = exactly(source, 4)
    if head is None:
        return None
    rest = exactly(source, struct.unpack("<i", head)[0] - 4)
    return None if rest is None else head + rest


def exactly(source: socket.socket, size: int) -> bytes | None:
    parts = b""
    while len(parts) < size:
        part = source.recv(size - len(parts))
        if not part:
            return None
        parts += part
    return parts


def decode(message: bytes) -> Command:
    """The command of an OP_MSG with its documents; empty for other kinds."""
    if struct.unpack_from("<i", message, 12)[0] != 2013:
        return {}
    command: Command = {}
    at = 20
    while at < len(message):
        kind = message[at]
        size = struct.unpack_from("<i", message, at + 1)[0]
        part = message[at + 1 : at + 1 + size]
        if kind == 0:
            command = {**bson.decode(part), **command}
        else:
            name, _, documents = part[4:].partition(b"\0")
            command[name.decode()] = bson.decode_all(documents)
        at += 1 + size
    return command
