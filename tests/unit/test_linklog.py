"""The hub's log of links: every kind and host is seen, no one fills the disk."""

import logging

from zmqgame_bus.limits import LINK_LOG_HOSTS, LINK_LOG_LINES, LINK_LOG_S
from zmqgame_bus.linklog import LinkLog


def line(kind, address):
    return ("closed", kind, address, "why")


def test_a_stranger_who_tries_for_ever_gets_some_lines_and_a_count(caplog):
    log = LinkLog(logging.getLogger("links"))
    with caplog.at_level(logging.INFO):
        for turn in range(200):
            log.write([line("key_not_allowed", f"10.0.0.9:{4000 + turn}")], turn * 0.01)
        log.write([line("key_not_allowed", "10.0.0.8:1"), line("malformed", "10.0.0.9:2")], 2.0)
        assert len(caplog.records) == LINK_LOG_LINES + 2
        log.write([], LINK_LOG_S)
    assert (
        caplog.records[-1].message
        == f"{200 - LINK_LOG_LINES} more links from 10.0.0.9 ended: key_not_allowed"
    )
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_after_the_window_lines_are_written_again(caplog):
    log = LinkLog(logging.getLogger("links"))
    with caplog.at_level(logging.INFO):
        log.write([line("disconnected", "[::1]:5")] * 50, 0.0)
        log.write([line("disconnected", "[::1]:5")], LINK_LOG_S + 1)
    assert len(caplog.records) == LINK_LOG_LINES + 2
    assert {record.levelname for record in caplog.records} == {"INFO"}


def test_a_scan_from_everywhere_takes_bounded_memory(caplog):
    log = LinkLog(logging.getLogger("links"))
    log.write([line("not_zmtp", f"host-{n}:1") for n in range(3 * LINK_LOG_HOSTS)], 0.0)
    assert len(log._windows) == LINK_LOG_HOSTS
