"""Hostile clients beside a calm one: the calm one's round trips with and without them, in turns.

The probe and the attackers are processes of their own, so that they only share the machine with the edge.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import ssl
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from tests.certificates import certificate
from tests.edge_tools import packet
from tests.load._many import PING, settled
from tests.load._options import left
from tests.load._server import Server, raise_descriptors, running

PROBES = 20
PAUSE_S = 0.002
SLOW_CLIENTS = 500
# Long enough that they pile up on a slow machine, short enough that some are thrown out in each round.
HANDSHAKE_MS = 4_000
DEAF_CLIENTS = 20
# A deaf client's window, and what it asks for in a turn: more at once than the edge keeps for it.
DEAF_WINDOW_BYTES = 4_096
ASKED_BYTES = 1_000
ASKED_PACKETS = 100
# Until an attack shows, and until the edge has thrown its first client out.
SHOWN_S = 120.0


@dataclass(frozen=True)
class Attack:
    """How clients misbehave, and what the edge counts when they do."""

    work: Callable[[str, Event, Any], None]  # with an address until the event is set; it counts how often
    shown: str  # what the edge counts, from the start of a round on
    least: int  # as much of it, before the others are timed
    closed: str  # whom the edge throws out for it
    port: str = "tcp"
    attackers: int = 1


def dial(address: str) -> socket.socket:
    """A connection whose packets are not held back."""
    host, port = address.split(":")
    client = socket.create_connection((host, int(port)), timeout=20)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def probe(address: str, seconds: float) -> list[float]:
    """Round trips of clients that behave, in microseconds."""
    clients, times = [dial(address) for _ in range(PROBES)], []
    end, turn = time.monotonic() + seconds, 0
    while time.monotonic() < end or turn < 2 * PROBES:
        client = clients[turn % PROBES]
        start = time.perf_counter()
        client.sendall(PING)
        got = b""
        while len(got) < len(PING):
            piece = client.recv(64)
            if not piece:
                raise ConnectionError("the edge has closed a client that behaves")
            got += piece
        times.append((time.perf_counter() - start) * 1e6)
        turn += 1
        time.sleep(PAUSE_S)
    for client in clients:
        client.close()
    return times


def stand_back() -> None:
    """Attackers are other machines: here they must not take the processor from the edge and the probe."""
    raise_descriptors()
    os.nice(19)


def count(attacks: Any) -> None:
    """One more, of all attackers together."""
    with attacks.get_lock():
        attacks.value += 1


def drip(address: str, over: Event, attacks: Any) -> None:
    """Slowloris: unfinished requests, a byte now and then, and again when they are thrown out."""
    stand_back()
    clients: list[socket.socket] = []
    while not over.is_set():
        while len(clients) < SLOW_CLIENTS and not over.is_set():
            with suppress(OSError):
                client = dial(address)
                client.sendall(b"GET / HTTP/1.1\r\n")
                count(attacks)
                clients.append(client)
        for client in list(clients):
            try:
                client.sendall(b"X")
            except OSError:
                clients.remove(client)
                client.close()
        over.wait(0.2)


def knock(address: str, over: Event, attacks: Any) -> None:
    """Handshakes that are begun and never ended: the edge does the dear part, the attacker nothing.

    A pile of them stays open until the edge closes it; beyond it each is dropped once the edge has worked.
    """
    stand_back()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    outgoing = ssl.MemoryBIO()
    session = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        session.do_handshake()
    hello = outgoing.read()
    pile: list[socket.socket] = []
    look_at = 0.0
    while not over.is_set():
        with suppress(OSError):
            client = dial(address)
            client.sendall(hello)
            client.recv(1)
            count(attacks)
            if len(pile) < SLOW_CLIENTS:
                client.setblocking(False)
                pile.append(client)
            else:
                client.close()
        if time.monotonic() >= look_at:
            look_at = time.monotonic() + 0.2
            pile = [client for client in pile if is_open(client)]


def is_open(client: socket.socket) -> bool:
    """Whether the edge has not closed it; what it has sent is thrown away."""
    try:
        while client.recv(65_536):
            pass
    except BlockingIOError:
        return True
    except OSError:
        pass
    client.close()
    return False


def ignore(address: str, over: Event, attacks: Any) -> None:
    """Clients that ask and never read: until the edge closes them."""
    stand_back()
    clients: dict[socket.socket, bytes] = {}  # each with what is left of its burst
    burst = packet(1, 1, bytes(ASKED_BYTES)) * ASKED_PACKETS
    while not over.is_set():
        while len(clients) < DEAF_CLIENTS and not over.is_set():
            with suppress(OSError):
                client = dial(address)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, DEAF_WINDOW_BYTES)
                client.setblocking(False)
                clients[client] = b""
        for client, rest in list(clients.items()):
            try:
                asked = rest or burst
                clients[client] = asked[client.send(asked) :]
                count(attacks)
            except BlockingIOError:
                pass
            except OSError:
                del clients[client]
                client.close()
        over.wait(0.1)


def p99(times: list[float]) -> float:
    """All but one in a hundred are at most this."""
    return statistics.quantiles(times, n=100)[98]


def counted(server: Server, name: str, least: int) -> int:
    """What the edge counts of it, once it is so much, or what it is when that takes too long."""
    end = time.monotonic() + SHOWN_S
    while (found := server.state()[name]) < least and time.monotonic() < end:
        time.sleep(0.05)
    return found


def measure(options: Namespace, server: Server, attack: Attack) -> dict[str, Any]:
    """Calm and attacked in turns; medians of their p99. The attack has to show before its clients count."""
    seconds, address = options.seconds, server.addresses["tcp"]
    calm, attacked, shown, attacked_s = [], [], [], 0.0
    spawn = multiprocessing.get_context("spawn")
    attacks = spawn.Value("q", 0)
    probe(address, min(1.0, seconds))
    before = settled(server, 0)
    for _ in range(options.rounds):
        calm.append(p99(probe(address, seconds)))
        over, was = spawn.Event(), settled(server, 0)
        arguments = (server.addresses[attack.port], over, attacks)
        processes = [spawn.Process(target=attack.work, args=arguments) for _ in range(attack.attackers)]
        start = time.monotonic()
        for process in processes:
            process.start()
        shown.append(counted(server, attack.shown, was[attack.shown] + attack.least) - was[attack.shown])
        attacked.append(p99(probe(address, seconds)))
        counted(server, attack.closed, was[attack.closed] + 1)
        over.set()
        attacked_s += time.monotonic() - start
        for process in processes:
            process.join()
        print(f"p99 calm {calm[-1]:.0f} us, attacked {attacked[-1]:.0f} us", flush=True)
    state = settled(server, 0)
    ratio = statistics.median(attacked) / statistics.median(calm)
    return {
        "p99_calm_us": round(statistics.median(calm)),
        "p99_attacked_us": round(statistics.median(attacked)),
        "ratio": round(ratio, 2),
        "attacks_a_second": round(attacks.value / attacked_s),
        "shown": min(shown),
        "shown_least": attack.least,
        "closed": state[attack.closed],
        "accepted": state["accepted"],
        "descriptors_left": state["descriptors"] - before["descriptors"],
        "connections_left": state["connections_now"],
        "buffer_bytes_left": state["memory_bytes_now"],
        "load_average": round(os.getloadavg()[0], 1),
    }


def judge(options: Namespace, found: dict[str, Any]) -> list[str]:
    """The attack took place, the edge has thrown attackers out, and clients that behave were served."""
    wrong = [f"{name} is 0" for name in ("attacks_a_second", "accepted", "closed") if not found[name]]
    if found["shown"] < found["shown_least"]:
        wrong.append(f"the attack has not shown: {found['shown']} of {found['shown_least']}")
    if found["ratio"] > options.most:
        wrong.append(f"p99 is {found['ratio']} times that without the attack: the goal is {options.most}")
    return wrong + left(found)


def slowloris(options: Namespace) -> dict[str, Any]:
    """Unfinished requests by the hundred."""
    with running(handshake_ms=HANDSHAKE_MS) as server:
        return measure(options, server, Attack(drip, "connections_now", options.piled, "closed_handshake"))


def handshakes(options: Namespace) -> dict[str, Any]:
    """As many begun TLS handshakes as two processes can begin."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running(certificate(Path(folder)), handshake_ms=HANDSHAKE_MS) as server,
    ):
        knocking = Attack(knock, "connections_now", options.piled, "closed_handshake", "tls", attackers=2)
        return measure(options, server, knocking)


def deaf(options: Namespace) -> dict[str, Any]:
    """Clients that never read."""
    with running(max_outbound_bytes=65_536) as server:
        return measure(options, server, Attack(ignore, "closed_full", DEAF_CLIENTS, "closed_full"))
