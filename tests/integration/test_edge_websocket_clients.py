"""WebSocket on the edge with three clients that are not ours: `websockets`, Node's `ws`, Chromium."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from zmqgame_native import Edge

from tests.certificates import certificate
from tests.edge_tools import OPEN, until
from tests.websocket_clients import (
    Client,
    NodeClient,
    PythonClient,
    bytewise,
    chromium,
    missing_chromium,
)

LIMIT_BYTES = 300_000


def need(missing: str | None) -> None:
    """Skip, which CI does not allow."""
    if missing:
        pytest.skip(missing)


@pytest.fixture(scope="module", params=["websockets", "ws", "chromium"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    """Each client in turn."""
    if request.param == "websockets":
        yield PythonClient()
    elif request.param == "ws":
        node = NodeClient()
        need(node.missing())
        yield node
    else:
        need(missing_chromium())
        with chromium() as browser:
            yield browser


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate that signs itself, and its key."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed: tests/install-system-packages")
    chain, key = certificate(tmp_path_factory.mktemp("tls"))
    return Path(chain), Path(key)


@contextmanager
def echoing(
    tls: tuple[Path, Path] | None = None, **settings: int
) -> Iterator[tuple[Edge, str, list[tuple[int, int, int, bytes]]]]:
    """An edge that sends packets back from a thread of its own; with its rows."""
    edge = Edge(max_packet_bytes=LIMIT_BYTES, max_outbound_bytes=4 << 20, **settings)
    rows: list[tuple[int, int, int, bytes]] = []
    over = threading.Event()

    def echo() -> None:
        while not over.is_set():
            if edge.wait(20):
                batch = list(edge.receive())
                edge.send([row for row in batch if row[1] < OPEN])
                rows.extend(batch)

    thread = threading.Thread(target=echo)
    thread.start()
    try:
        yield edge, edge.listen_tcp("127.0.0.1:0", tls=tls), rows
    finally:
        over.set()
        thread.join()
        edge.stop(500)


def closings(rows: list[tuple[int, int, int, bytes]]) -> list[str]:
    return [row[3].decode() for row in rows if row[1] > OPEN]


def test_every_size_comes_back_and_the_goodbye_is_answered(client: Client) -> None:
    sizes = [0, 1, 113, 114, 125, 126, 127, 65_523, 65_524, 65_525, 200_000, LIMIT_BYTES - 12, 5]
    with echoing() as (edge, address, rows):
        seen = client.run(f"ws://{address}", "echo", sizes=sizes)
        assert seen["equal"] == len(sizes)
        assert seen["extensions"] == "", "compression was offered by the client and must not be taken"
        assert seen["closed"] == {"code": 3001, "reason": "enough", "clean": True}
        until(lambda: edge.connections == 0, "it is let go")
        until(lambda: closings(rows) == ["closed by the client"], "the consumer is told")
        assert edge.counters()["bad_bytes"] == 0


def test_byte_by_byte_in_both_directions(client: Client) -> None:
    sizes = [0, 1, 113, 114, 300, 2]
    with echoing() as (_, address, _rows), bytewise(address) as slow:
        seen = client.run(f"ws://{slow}", "echo", sizes=sizes)
        assert seen["equal"] == len(sizes)
        assert seen["closed"]["clean"]


def test_pieces_of_a_message_with_pings_between_them(client: Client) -> None:
    with echoing() as (_, address, _rows):
        if client.name == "chromium":
            # A page can neither cut messages nor ping; the browser cuts long ones by itself.
            assert client.run(f"ws://{address}", "echo", sizes=[290_000] * 3)["equal"] == 3
            return
        seen = client.run(f"ws://{address}", "pieces", size=1_000, each=97)
        assert seen["equal"]
        assert seen["pongs"] == [str(at) for at in range(0, 1_012, 97)]
        assert seen["closed"]["clean"]
        assert seen["closed"]["code"] == 1000


@pytest.mark.parametrize(
    ("arguments", "code", "counter"),
    [
        ({"bytes": LIMIT_BYTES + 1}, 1009, "packet_too_long"),
        ({"text": "a text"}, 1003, "bad_websocket"),
    ],
)
def test_what_is_too_long_or_text_is_refused_with_a_code(
    client: Client, arguments: dict[str, object], code: int, counter: str
) -> None:
    with echoing() as (edge, address, _rows):
        seen = client.run(f"ws://{address}", "refused", **arguments)
        assert seen["closed"]["code"] == code
        assert edge.counters()[counter] == edge.counters()["bad_bytes"] == 1


def test_the_server_says_why_it_closes(client: Client) -> None:
    with echoing() as (edge, address, rows):

        def kick() -> None:
            until(lambda: any(row[1] == 3 for row in rows), "the client speaks")
            edge.close(rows[0][0], "second login")

        thread = threading.Thread(target=kick)
        thread.start()
        seen = client.run(f"ws://{address}", "told")
        thread.join()
        assert seen["closed"] == {"code": 1000, "reason": "closed by the server: second login", "clean": True}


def test_over_tls_it_is_the_same(client: Client, pair: tuple[Path, Path]) -> None:
    sizes = [0, 1, 114, 65_524, 200_000, LIMIT_BYTES - 12, 5]
    with echoing(tls=pair) as (edge, address, rows):
        seen = client.run(f"wss://{address}", "echo", sizes=sizes)
        assert seen["equal"] == len(sizes)
        assert seen["extensions"] == ""
        assert seen["closed"] == {"code": 3001, "reason": "enough", "clean": True}
        until(lambda: closings(rows) == ["closed by the client"], "the consumer is told")
        seen = client.run(f"wss://{address}", "refused", bytes=LIMIT_BYTES + 1)
        assert seen["closed"]["code"] == 1009
        assert edge.counters()["packet_too_long"] == edge.counters()["bad_bytes"] == 1


def test_over_tls_byte_by_byte(client: Client, pair: tuple[Path, Path]) -> None:
    with echoing(tls=pair) as (_, address, _rows), bytewise(address) as slow:
        seen = client.run(f"wss://{slow}", "echo", sizes=[0, 1, 300])
        assert seen["equal"] == 3
        assert seen["closed"]["clean"]
