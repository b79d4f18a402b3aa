"""CLIENT.md names every limit that a client can reach, with the value that the code has."""

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest
from zmqgame import limits
from zmqgame.play.config import GameConfig
from zmqgame_native import Edge

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "services" / "CLIENT.md").read_text()
ROWS = {name: cell.strip() for name, cell in re.findall(r"^\| `([\w.]+)` \| ([^|]+) \|", TEXT, re.MULTILINE)}
CONSTANTS = {name: value for name, value in vars(limits).items() if name.isupper()}
# What no client can reach by what it does: limits of operators, rules, the manager, stats, simulations.
NOT_OF_CLIENTS = re.compile(
    r"STATS_|CHECKPOINT(S_BYTES|_PARTS|_BATCH_BYTES)|FAULT_|MAX_(RECORD_ENTRIES|CATCH_UP_TICKS|MATCH_CONFIG_BYTES|QUEUE"
    r"|SERVERS|OPEN_MATCHES|LOG_TEXT_BYTES)|TICK_WINDOW|TURN_PACKETS|REFUSAL_|REPLAY_|HANDOVER(S_AT_ONCE|_LINGER_S)"
    r"|EDGE_INBOUND_BYTES"
)


@pytest.mark.parametrize("name", [name for name in CONSTANTS if not NOT_OF_CLIENTS.match(name)])
def test_a_limit_of_the_services_stands_in_the_table(name):
    assert name in ROWS, f"{name}: a row of CLIENT.md's limits, or an entry of NOT_OF_CLIENTS"
    assert ROWS[name].startswith(f"{CONSTANTS[name]:,} "), ROWS[name]


@pytest.mark.parametrize("name", [name for name in ROWS if name.startswith("game.")])
def test_a_default_of_the_configuration_is_the_one_in_the_table(name):
    (default,) = [field.default for field in fields(GameConfig) if f"game.{field.name}" == name]
    assert re.match(rf"{default:,.0f}[ :]", ROWS[name]), ROWS[name]


@pytest.mark.parametrize("name", ["handshake_ms", "idle_ms", "max_packet_bytes"])
def test_a_default_of_the_edge_is_the_one_in_the_table(name):
    default = inspect.signature(Edge).parameters[name].default
    assert ROWS[name].startswith(f"{default:,} "), ROWS[name]


def test_nothing_stands_in_the_table_that_is_no_limit():
    assert not {name for name in ROWS if name.isupper()} - CONSTANTS.keys()


def test_each_code_of_a_websocket_close_frame_is_told():
    source = (ROOT / "rust" / "reactor" / "src" / "edge" / "reason.rs").read_text()
    sent = set(re.findall(r"=> (1\d{3}),", source))
    assert len(sent) > 5
    assert set(re.findall(r"^\| (1\d{3}) \|", TEXT, re.MULTILINE)) == sent
