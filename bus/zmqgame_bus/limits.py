"""Every bound of the Python side of the bus, each with its reason.

A value of the wire stands in limits.rs too.
"""

from __future__ import annotations

from typing import Final

NOTIFY_STATUS_BYTES: Final = 512
"""A status text in one notification:
longer than a terminal line helps nobody, shorter than any socket buffer.
"""

NOTIFY_WAIT_S: Final = 2.0
"""How long READY and STOPPING wait for a busy service manager: it would time out on a lost one."""

CONFIG_BYTES: Final = 1_048_576
"""A configuration file: a thousand times a real one;
a device or a log given by mistake must not be read whole.
"""

CONFIG_TEXT_CHARS: Final = 65_536
"""A text of the configuration: the longest is the JSON that a match is made with."""

PROBLEM_TEXT_CHARS: Final = 200
"""What an error quotes of a bad value: enough to find it, on two lines of a terminal."""

CONFIG_LIST_ITEMS: Final = 1_024
"""A list of the configuration: more is data, and belongs in a file of its own."""

LINK_LOG_LINES: Final = 10
"""Lines on ended links of one kind from one host in LINK_LOG_S: enough to see what goes on."""

LINK_LOG_S: Final = 10.0
"""A node with a wrong key tries 20 times a second: in 10 s that is 200 lines, of which the first tell all."""

LINK_LOG_HOSTS: Final = 1_024
"""Hosts and kinds that are counted at a time; a scan from more gets its lines."""

KEY_FILE_BYTES: Final = 65_536
"""A key file or list of allowed keys: 500 entries of a long line each."""

KEY_WATCH_S: Final = 1.0
"""Key files are looked at this often: three calls of stat, and a revoked key is out within a second."""

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

ROSTER_DAYS: Final = 7
"""A node not seen for so long is retired: longer than any planned pause, short enough to bound the marks."""

STORE_READ_ROWS: Final = 1_000
"""Rows of one answer to a read of a mailbox: a batch that other players wait behind stays below some ms."""

STORE_READ_BYTES: Final = 4_194_304
"""Payload bytes of one answer to a read (at least one row goes): four of the largest messages."""
ALLOWED_KEYS: Final = 500
"""Entries of a list of allowed keys: ten times the nodes of a large installation;
each handshake looks one up.
"""

EVENT_BYTES_MAX: Final = 65_536
"""One event's JSON. The longest we emit is a message's detail, under 2 KiB; a bigger one is a mistake of
the caller."""

EVENT_SOURCE_BYTES_MAX: Final = 122
"""A source's name: the bus's limit for names, less the `spool:` of its service."""

EVENT_FRAME_BYTES_MAX: Final = 786_432
"""One PUB frame or one answer to a gap request. An answer travels as a bus payload, which is at most 1
MiB."""

EVENT_BATCH_BYTES: Final = 262_144
"""Records are cut into frames of about this size: few enough to be cheap, small enough to lose little with
one."""

EVENT_QUEUE_BYTES: Final = 8_388_608
"""Events between emit and the spool. A disk that hangs for a second at 10,000 events/s of 200 bytes needs 2
MB."""

SPOOL_BYTES: Final = 268_435_456
"""A spool on disk. At 1,000 events/s of 200 bytes it holds what ClickHouse misses in 20 minutes."""

SPOOL_BYTES_MIN: Final = 65_536
"""Below this a spool would hold less than one event in each of its eight segments."""

SPOOL_SEGMENT_BYTES: Final = 8_388_608
"""A segment is the unit of removal, and at most an eighth of the spool, so seven eighths are always
usable."""

SPOOL_EPOCHS_MAX: Final = 1_024
"""Epochs (starts of the process) whose numbers a spool remembers; the oldest confirmed ones become one
sum."""

SPOOL_RESERVE_BYTES: Final = 131_072
"""Kept free so that the marks can be written on a full disk: SPOOL_EPOCHS_MAX entries of 100 bytes."""

LINK_FRAME_BYTES: Final = 2_097_152
"""A frame on the bus: its target size and one message on top, as in limits.rs."""

LINK_QUEUE_FRAMES: Final = 64
"""Frames in libzmq's own queues, each way: enough to keep a link busy, and acks are not late behind 8 MiB."""

LINK_TURN_FRAMES: Final = 64
"""Frames taken in one turn of the loop: some ms of work, then timers and others have their turn."""

LINK_CLOSE_MS: Final = 500
"""How long a closing link may write what it has, its goodbye last."""

INBOX_MESSAGES: Final = 65_536
"""Messages that wait for `async for`: 64 for each of a thousand addresses; the hub sends no more unacked."""

PRESENCE_EVENTS: Final = 65_536
"""Presence changes that wait for a reader; then it gets a new snapshot in place of them."""

MONGO_BATCH_ROWS: Final = 1_000
"""Rows of one batch of the document store: its commit waits for all, and row numbers have ten bits for it."""

MONGO_BATCH_BYTES: Final = 1_048_576
"""Payload of one batch of the document store: the database takes 48 MB, but a commit waits for it."""

MONGO_CHAIN_TIDY: Final = 64
"""Commits between two clean-ups of the chain: a hub that opens the store reads what is left of each run."""

MONGO_CLAIMS: Final = 1_024
"""Counters that one open tries in its hub epoch: each is a run of this process whose outcome was unknown."""

MONGO_RUNS: Final = 1 << 20
"""Runs that a document store may have had: a restart every five minutes for ten years."""

MONGO_PLAYERS: Final = 65_536
"""Players of whom the document store remembers rows and marks: 1 KiB each; others are read when named."""

MONGO_CACHED_ROWS: Final = 262_144
"""Rows that it remembers of those players (numbers only): 40 MiB."""

MONGO_CLAUSES: Final = 200
"""Players or ranges named in one query: the database plans each, and a query stays below some kilobytes."""

MONGO_SELECT_MS: Final = 2_000
"""How long one operation looks for the database's primary: then it is away, and the hub tries again."""

MONGO_REPLY_MS: Final = 10_000
"""How long an operation may take: an election takes up to 12 s and is waited for in repeats."""

EXPORT_LINE_BYTES: Final = 4_194_304
"""A line of an exported mailbox: the largest message as hexadecimal, and its names."""

MONGO_SEALS: Final = 100
"""Tries to seal a run that commits meanwhile: each lost race is one batch of a hub that was about to end."""

HOPS_A_SECOND: Final = 1_000
"""Hops of messages that a process emits as events: one percent of a core; the rest is counted as lost."""

HOP_SUM_PAIRS: Final = 4_096
"""Traced messages that a host remembers until their ack, the oldest forgotten first: operators'."""

HUB_SPOOL_BYTES: Final = 67_108_864
"""What a hub's own events may take on disk where nobody collects them; no more than events.spool_bytes."""
