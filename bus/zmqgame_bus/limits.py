"""Every bound of the Python side of the bus, each with its reason.

A value of the wire stands in limits.rs too.
"""

from __future__ import annotations

from typing import Final

NOTIFY_STATUS_BYTES: Final = 512
"""A status text in one notification:
longer than a terminal line helps nobody, shorter than any socket buffer.
"""

CONFIG_BYTES: Final = 1_048_576
"""A configuration file: a thousand times a real one;
a device or a log given by mistake must not be read whole.
"""

KEY_FILE_BYTES: Final = 65_536
"""A key file or list of allowed keys: 500 entries of a long line each."""

NAME_BYTES: Final = 128
"""A node, player, group or service name: fits a log line and an index page, as in limits.rs."""

DRAIN_S: Final = 20.0
"""How long a process may drain after SIGTERM:
well below systemd's 90 s, long enough for a store commit on a slow disk.
"""

WATCHDOG_PINGS: Final = 3
"""Signs of life in one watchdog interval: two may be late before a process that lives is taken for hung."""

FOLDER_PROBE_BYTES: Final = 65_536
"""Written and removed when a folder is tried at start: more than a file system keeps in an inode."""

STORE_READ_ROWS: Final = 1_000
"""Rows of one answer to a read of a mailbox: a batch that other players wait behind stays below some ms."""

STORE_READ_BYTES: Final = 4_194_304
"""Payload bytes of one answer to a read (at least one row goes): four of the largest messages."""
ALLOWED_KEYS: Final = 500
"""Entries of a list of allowed keys: ten times the nodes of a large installation;
each handshake looks one up.
"""
