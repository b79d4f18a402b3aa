"""The folder of a backend."""

import socket

import pytest
from zmqgame.cli.stage import Stage, free_addresses
from zmqgame_bus.errors import FolderNotUsable
from zmqgame_native import Edge


def test_a_folder_that_can_not_be_used_names_the_flag_that_chose_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderNotUsable) as caught:
        Stage(tmp_path / "file", free_addresses(["game-1"]), option="--keep")
    assert caught.value.hint.endswith("use --keep")


def test_free_ports_stay_ours_and_servers_may_listen_there():
    first, second = free_addresses(["game-1"]), free_addresses(["game-1"])
    ports = [int(each.rpartition(":")[2]) for each in (first.hub, first.events, *first.games["game-1"])]
    assert not {second.hub, second.events, *second.games["game-1"]} & {first.hub, first.events}
    for port in ports:
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        with socket.create_server(("127.0.0.1", port)):  # which sets SO_REUSEADDR
            pass
    edge = Edge()
    assert edge.listen_tcp(first.games["game-1"][0]) == first.games["game-1"][0]
    edge.stop()
