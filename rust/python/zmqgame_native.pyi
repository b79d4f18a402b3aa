"""The native module of zmqgame: hub, node core, edge, decoders, race physics."""

from asyncio import Future
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, Self, final

from typing_extensions import Buffer

__version__: str

# packet.rs

class FrameError(ValueError):
    """Bytes that are no frame or packet; the text names the limit and the value."""

@final
class PacketBatch:
    """Packets of many connections as columns over one arena.

    Row `i` is the packet `kind[i]`, `sequence[i]` of `connection[i]` with
    `arena[offset[i]:offset[i] + length[i]]` as its payload. The columns are read-only memoryviews of
    the batch's own memory (`numpy.frombuffer` takes them without a copy) and stay valid for as long as
    anyone holds them. Kinds from 0xf0 are the edge's own: 0xf0 open (payload: JSON with `transport` and
    `peer`), 0xf1 close (payload: the reason as text).
    """

    @staticmethod
    def decode(data: Buffer, connection: int = 0, max_packet_bytes: int = 65_536) -> tuple[PacketBatch, int]:
        """Decode the whole packets at the front of a byte stream; return them and how many bytes they are.

        Keep the bytes after that for the next call: any split of a stream gives the same packets.
        `connection` fills that column. Raise FrameError when the bytes at the front can't become a packet
        (more than `max_packet_bytes` with the header of 12, shorter than it, flags, a kind from 0xf0);
        packets before such bytes are returned first. Raise ValueError for more than 4 GiB.
        """
    @property
    def connection(self) -> memoryview:
        """Whose each packet is: u64, one item a row. A connection's number never comes again."""
    @property
    def kind(self) -> memoryview:
        """What each packet is: u8, one item a row; 0 from a framing other than `packets`."""
    @property
    def sequence(self) -> memoryview:
        """Each packet's number as its sender has set it: u64, one item a row; 0 where there is none."""
    @property
    def offset(self) -> memoryview:
        """Where each payload begins in the arena: u32 in bytes, one item a row."""
    @property
    def length(self) -> memoryview:
        """How many bytes each payload has: u32, one item a row."""
    @property
    def arena(self) -> memoryview:
        """The bytes that the rows point into: u8. There may be bytes between payloads that no row has."""
    def packets(self) -> list[tuple[int, int, int, bytes]]:
        """All rows as (connection, kind, sequence, payload); payloads are copies."""
    def payloads(self) -> list[bytes]:
        """All payloads, row by row, copied: with the columns the cheapest way to see every packet."""
    def reply(self, payloads: Iterable[Buffer | None]) -> WriteBatch:
        """Answer row by row: each to its connection with its kind and sequence; None is no answer.

        Raise ValueError when there are not as many as rows. Give None for the edge's own rows.
        """
    def __iter__(self) -> Iterator[tuple[int, int, int, bytes]]: ...
    def __getitem__(self, index: int, /) -> tuple[int, int, int, bytes]: ...
    def __len__(self) -> int: ...

# write.rs

@final
class WriteBatch:
    """Packets to be sent, as columns over one arena: a handler's answers cross the border once.

    For any thread. A batch may be sent more than once.
    """

    def __new__(cls) -> Self: ...
    @staticmethod
    def columns(
        connection: Buffer | Iterable[int],
        arena: Buffer,
        offset: Buffer | Iterable[int],
        length: Buffer | Iterable[int] | int,
        kind: Buffer | Iterable[int] | int | None = None,
        sequence: Buffer | Iterable[int] | int | None = None,
    ) -> WriteBatch:
        """Make rows of columns: row `i` is `arena[offset[i]:offset[i] + length[i]]` to `connection[i]`.

        Quickest are arrays (numpy, array) of u64, u32, u32, u8, u64 and any bytes as arena, all copied at
        once. A number stands for a column of it; kind and sequence are 0 by default. Raise IndexError when
        a row is not in the arena, ValueError when columns differ in length.
        """
    def add(self, connection: int, payload: Buffer, kind: int = 0, sequence: int = 0) -> None:
        """Add a packet; its payload is copied. Raise ValueError beyond 2**30 bytes in a batch."""
    def broadcast(
        self, connections: Buffer | Iterable[int], payload: Buffer, kind: int = 0, sequence: int = 0
    ) -> None:
        """Add the same packet for many; its payload is kept once. Quickest are connections as array of u64.

        Raise ValueError beyond 2**30 bytes in a batch.
        """
    def clear(self) -> None:
        """Drop all packets, keep the storage."""
    def __len__(self) -> int: ...

# ring.rs

@final
class RingBuffer:
    """Bytes in order: grows by powers of two up to a limit, shrinks after a quiet time. For any thread."""

    def __new__(cls, limit: int) -> Self:
        """Make an empty buffer that holds at most `limit` bytes, 1 to 2**30, else raise ValueError."""
    @property
    def limit(self) -> int:
        """The most bytes it may hold."""
    @property
    def capacity(self) -> int:
        """The size of its storage in bytes: 0 or a power of two."""
    def write(self, data: Buffer) -> None:
        """Append all of `data`. Raise BufferError, and take nothing, when it does not fit."""
    def read(self, size: int = -1) -> bytes:
        """Take up to `size` bytes from the front; all when negative. b"" when it is empty."""
    def peek(self, size: int = -1) -> bytes:
        """Look at up to `size` bytes at the front; all when negative. They stay."""
    def skip(self, size: int) -> None:
        """Drop `size` bytes from the front. Raise IndexError, and drop nothing, when there are fewer."""
    def tick(self, now_ms: int, quiet_ms: int) -> None:
        """Shrink if at most a quarter of the storage was used in the last `quiet_ms`; call it often.

        `now_ms` is any clock in milliseconds that does not run backwards.
        """
    def __len__(self) -> int: ...

@final
class FrameDecoder:
    """Cuts a stream of bytes into frames; any split of the stream gives the same frames. For any thread."""

    @staticmethod
    def length_field(
        size: int,
        *,
        limit: int = 65_536,
        offset: int = 0,
        big_endian: bool = False,
        adjustment: int = 0,
        strip: int | None = None,
    ) -> FrameDecoder:
        """Frames with a length field of `size` bytes (1 to 8) after `offset` bytes.

        `adjustment` is added to its value to get the bytes that follow it: 0 when it counts only those,
        negative when it counts the header too. The first `strip` bytes of a frame are left out: by default
        those up to the length field's end. `limit` bounds the whole frame in bytes. Raise ValueError when the
        parameters can give no frame.
        """
    @staticmethod
    def line(*, limit: int = 65_536) -> FrameDecoder:
        """Lines that end with LF or CR LF, which is left out; `limit` bounds a line in bytes."""
    @staticmethod
    def delimiter(delimiter: bytes, *, limit: int = 65_536) -> FrameDecoder:
        """Frames that end with `delimiter` (1 to 64 bytes), which is left out; `limit` bounds a frame."""
    @staticmethod
    def fixed(length: int) -> FrameDecoder:
        """Frames of `length` bytes each, at least 1."""
    def feed(self, data: Buffer) -> list[bytes]:
        """Take the next bytes of the stream; return the frames that are whole now.

        Raise FrameError when the bytes can't become a frame and no frame came before them in this call;
        from then on every call raises.
        """
    @property
    def error(self) -> str | None:
        """What ended the stream, with the limit and the value; None while it goes on."""
    @property
    def waiting_bytes(self) -> int:
        """How many bytes wait for the rest of their frame: at most one frame's."""

# edge.rs

_Writes = PacketBatch | WriteBatch | Iterable[tuple[int, int, int, Buffer]]

@final
class Edge:
    """Connections of many clients as batches of packets.

    Native threads own the sockets. `receive` takes what has come from all clients as one batch; all
    methods may be called from any thread, and at most one serves. Everything that waits is bounded.
    docs/edge.md tells more: the edge's own rows, limits, counters, ends.
    """

    def __new__(
        cls,
        *,
        loops: int = 1,
        max_connections: int = 10_000,
        max_packet_bytes: int = 65_536,
        max_outbound_bytes: int = 1_048_576,
        max_outbound_total_bytes: int = 268_435_456,
        max_inbound_bytes: int = 67_108_864,
        idle_ms: int = 30_000,
        handshake_ms: int = 5_000,
        connect_ms: int = 5_000,
        balance: Literal["round_robin", "least_connections", "source_hash"] = "round_robin",
        max_connections_per_address: int = 0,
        packets_per_s: int = 0,
        packets_burst: int = 0,
        bytes_per_s: int = 0,
        bytes_burst: int = 0,
        outbound_policy: Literal["close", "drop_newest", "drop_droppable"] = "close",
        droppable_kinds: Sequence[int] = (),
        max_memory_bytes: int = 1 << 30,
    ) -> Self:
        """Start the loops, a thread each, and one that takes connections in and does TLS handshakes.

        A connection is closed when it gives no whole packet in `idle_ms`, no first packet (WebSocket: no
        request) in `handshake_ms`, a packet of more than `max_packet_bytes`, or when more than
        `max_outbound_bytes` wait to be read by its client. Beyond `max_connections` new ones are closed at
        once, beyond `max_outbound_total_bytes` in all queues `send` refuses, beyond `max_inbound_bytes` of
        packets not taken yet reading pauses.

        `balance` says which loop gets a connection. `max_connections_per_address` counts an IPv4 address or
        an IPv6 network of 64 bits. A connection that sends more than `packets_per_s` or `bytes_per_s`, with a
        burst on top (0: that of one second), is not read until it may again: nothing is lost. In all these 0
        means any. At `max_outbound_bytes` a connection is closed, or (`drop_newest`) the packet refused, or
        (`drop_droppable`) packets of `droppable_kinds` refused from half of the bound on. Buffers of all
        connections, in and out, have at most `max_memory_bytes`: beyond, new connections are refused and
        who needs more is closed.

        The same for UDP, with what datagrams allow: over its rates they are dropped; what waits for a
        connection in its port has the bound and the policy above, and at most 2 MiB of the port's 8: beyond
        that it is lost, as in the network. A port counts as 4.2 MiB of memory; listening fails where there
        is less.
        """
    def listen_tcp(
        self,
        address: str,
        *,
        framing: str | FrameDecoder = "packets",
        tls: tuple[str | PathLike[str], str | PathLike[str]] | None = None,
        proxy_protocol: bool | Sequence[str] = False,
        reuse_port: bool = False,
        keepalive_s: int = 0,
    ) -> str:
        """Listen on `host:port` (port 0: a free one); return the address it is bound to.

        Framing `packets`: the project's client packets, WebSocket on the same port. Framing `raw`: each
        read is a packet of kind 0, and what is sent goes out as it is. `lines`, or the rule of a
        FrameDecoder: each frame is a packet of kind 0, and what a frame is cut by (line end, delimiter,
        length) is put back when one is sent. Raise OSError when it can't.

        With `tls` (PEM files: certificate chain, key) it speaks TLS 1.3 or 1.2. With `proxy_protocol` each
        connection must begin with a PROXY protocol header of version 2, whose client becomes the peer. True
        believes everybody who can connect; a list of networks (`["10.0.0.0/8", "192.0.2.7"]`) refuses who is
        in none of them (counter `refused_proxy`). With `keepalive_s` the kernel asks silent machines whether
        they live. TCP_NODELAY is always on.
        """
    def listen_unix(
        self,
        path: str | PathLike[str],
        *,
        framing: str | FrameDecoder = "packets",
        proxy_protocol: bool = False,
    ) -> str:
        """Listen on a path; like `listen_tcp`. A socket that a dead process left there is replaced.

        With `proxy_protocol` whoever may open the path is a proxy.
        """
    def reload_tls(self) -> None:
        """Read the certificates and keys of all listeners again, for connections that come from now on.

        Raise OSError when some can't be used; their listeners keep what they had.
        """
    def connect_tcp(
        self,
        address: str,
        *,
        framing: str | FrameDecoder = "packets",
        tls: str | PathLike[str] | None = None,
        server_name: str | None = None,
    ) -> int:
        """Connect to `host:port`; return the connection at once.

        Its open row comes when it is there, its close row when it can't be made in `connect_ms`; from then
        on it is like those that clients make. `tls` is a PEM file of the certificates that are trusted; the
        server's must have `server_name`, by default the host. Raise OSError when the name does not resolve.
        """
    def connect_websocket(
        self, url: str, *, tls: str | PathLike[str] | None = None, server_name: str | None = None
    ) -> int:
        """Connect to a WebSocket, `ws://host:port/path` or `wss://...`, whose binary messages are packets.

        Like `connect_tcp`; the open row comes with the server's answer. A `wss` URL needs `tls`. Raise
        ValueError when it is no such URL.
        """
    def connect_unix(self, path: str | PathLike[str], *, framing: str | FrameDecoder = "packets") -> int:
        """Connect to a path; like `connect_tcp`. Raise OSError when there is nobody."""
    def pause(self, connection: int) -> None:
        """Read a connection no more: what its client sends waits in the network; it is not called idle.

        Datagrams can't wait: those of a paused connection are dropped (counter `datagrams_paused`). What was
        read before may still come. When a stream's client closes, what that sent before waits as long as a
        client may be idle (30 s where `idle_ms` is 0); if it is not resumed by then, the connection closes.
        Nothing happens when the connection is closed.
        """
    def resume(self, connection: int) -> None:
        """Read a connection again. Nothing happens when it is closed or was not paused."""
    def listen_udp(
        self, address: str, *, protocol_id: int, private_key: bytes, public_address: str | None = None
    ) -> str:
        """Listen for netcode 1.02 sessions on `host:port`; return the address it is bound to.

        Connect tokens must be sealed with `private_key` (32 bytes) and name `public_address`, by default
        the bound one. The open packet's JSON also has `client_id` (decimal) and `user_data` (hex).
        """
    def listen_udp_plain(self, address: str) -> str:
        """Listen for plain datagrams on `host:port`, each loop on a socket of its own; return the address.

        A datagram is a packet of kind 0, and `send` sends the payload alone. A remote address is a connection
        from its first datagram until it is silent for `idle_ms`; addresses can be forged, so answer with no
        more than what was asked, or use `listen_udp`.
        """
    def fileno(self) -> int:
        """Return the descriptor that is readable when `receive` has something: for `loop.add_reader`."""
    def receive(self) -> PacketBatch:
        """Take all packets that are there, opens and closes of connections included. Never waits.

        What was taken before counts as answered, as with `wait`: see the end of half-closed clients in
        docs/edge.md. Raise OSError when a thread of the edge has died and all rows were taken.
        """
    def wait(self, timeout_ms: int) -> bool:
        """Wait, without the GIL, until `receive` has something; return whether it has.

        False after `timeout_ms`, or when a signal has come. `wake` and a stop end the wait, too: then there
        may be nothing to receive. Raise OSError when a thread of the edge has died and all rows were taken.
        """
    def send(self, writes: _Writes) -> int:
        """Queue packets; return how many were refused.

        `writes` is rows of (connection, kind, sequence, payload), a `WriteBatch`, or a `PacketBatch`: its
        packets go back to where they came from, the edge's own rows are left out.

        Refused are packets to a connection that is closed or over its bound (it gets closed), and all
        packets while the bound over all connections is reached. The counters tell which. What one call sends
        to a connection goes out in that order; taken means queued, not received.
        """
    def serve(
        self,
        handler: Callable[[PacketBatch], _Writes | None],
        *,
        on_tick: Callable[[], int | None] | None = None,
        tick_ms: int = 0,
        inline: bool = False,
    ) -> None:
        """Call `handler` with each batch and send what it returns, until the edge is stopped.

        I/O goes on while the handler runs: what comes meanwhile is the next batch. `on_tick` is called
        every `tick_ms` and may return the next interval (0 ends it). `stop` may be called in the handler
        (what it returns is sent first), in a signal's handler, or by any thread. An exception of a handler
        ends the serving and is raised; the edge is not stopped by it.

        With `inline` handler and ticker are called on the loop's own thread, and what they return goes
        straight into the connections: the quickest for a handler that takes microseconds. While it runs, or
        waits for the GIL, nobody is read or written, so it must not block, and no other thread should keep
        the GIL busy. It is for one loop, else ValueError is raised; in it `connect_tcp`,
        `connect_unix`, `connect_websocket`, `listen_udp` and `listen_udp_plain` raise RuntimeError.
        """
    def serve_async(
        self,
        handler: Callable[[PacketBatch], _Writes | Awaitable[_Writes | None] | None],
        *,
        on_tick: Callable[[], int | None] | None = None,
        tick_ms: int = 0,
    ) -> Future[None]:
        """Serve on the running asyncio (or uvloop) loop like `serve`; await the future, or cancel it.

        The handler may be a coroutine function: the next batch is taken when it has returned. `stop` by
        the handler drains when what it returns is sent, `stop` by another task at once: what a handler that
        waits meanwhile returns is refused. It drains beside the loop; the future is done when it has.
        """
    def wake(self) -> None:
        """Let `wait` return, as if packets had come."""
    def close(self, connection: int, reason: str = "") -> None:
        """Close a connection after what was sent to it before.

        A WebSocket is told the reason, at most 123 bytes of it. Its close row comes in any case. Nothing
        happens when it is closed.
        """
    def peer(self, connection: int) -> str | None:
        """Return where a connection comes from, as its open row does; None when it is closed."""
    @property
    def connections(self) -> int:
        """How many connections there are, those included that have not spoken yet or are being closed."""
    def counters(self) -> dict[str, int]:
        """Return the counters by name; those that end with `_now` are gauges, the others only grow."""
    def stop(self, drain_ms: int = 1_000) -> None:
        """Take nothing in any more, send what is queued, close everything; wait at most `drain_ms`.

        It waits, unless the thread that serves calls it: then it returns at once, what the handler returns is
        still sent, and the serving ends when everything is closed. What came before can still be received.
        A second call waits, too.
        """

# load.rs

def echo_load(
    address: str,
    *,
    wire: str = "packets",
    connections: int = 1_000,
    depth: int = 1,
    message_bytes: int = 64,
    warm_up_s: float = 0.3,
    duration_s: float = 5.0,
) -> dict[str, Any]:
    """Load an echo server from one native thread, without the GIL; return what was measured.

    Each connection has `depth` messages under way (a round); when all are back the next ones go out. `wire`
    is `raw`, `packets`, `websocket` (packets as binary messages) or `udp` (datagrams, a socket each). The
    result has `messages`, `seconds`, `messages_in_all` (warm-up too), `rounds`, `lost` (datagrams), and of
    the rounds `p50_us`, `p90_us`, `p99_us`, `p99.9_us`, `max_us`. Raise OSError when a connection breaks.
    """

def udp_flood(
    address: str,
    *,
    sessions: int = 100,
    packet_bytes: int = 76,
    duration_s: float = 5.0,
    protocol_id: int = 0,
    private_key: bytes | None = None,
) -> int:
    """Send datagrams of many sockets in turn, as fast as one native thread can; return how many.

    With `private_key` they are netcode sessions, whose tokens are made with it. Nothing is awaited but
    their begin: raise OSError when that takes too long.
    """

def echo_natively(edge: Edge) -> None:
    """Let a native handler on each loop send everything back from now on, to show what Python adds."""

# node.rs

_Id = tuple[int, int, int]
_Options = tuple[int, str, int, int, bool, bool]

def node_key(name: str) -> int:
    """The stable hash of a node's name."""

def sqlite_log_end(data: bytes) -> tuple[int, int]:
    """Where the readable part of a `-wal` file ends, and how many transactions of it stand behind."""

class StoreFailed(Exception):
    """Kind (`unavailable`, `replaced`, `damaged`), reason, hint."""

class SqliteStore:
    """The mailbox in SQLite; operations and results as zmqgame_bus.mailbox has them.

    The caller holds the lock. `on_step` is called with each statement and step of the log; what it raises is
    an error of the disk.
    """

    def __init__(
        self,
        path: str,
        *,
        power_loss: bool,
        max_bytes: int,
        player_messages: int,
        player_bytes: int,
        on_step: Callable[[str], object] | None = None,
    ) -> None: ...
    def highest_epoch(self) -> int: ...
    def run(self, operations: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]: ...
    def idle(self) -> None:
        """Move the log into the database, while nobody waits."""

    def let_go(self) -> None:
        """Move the log into the database and close both, until the next call."""

class MessageId:
    """Unique for ever: the hash of the sender's name, the sender's epoch, its sequence number."""

    def __new__(cls, node_key: int, epoch: int, seq: int, name: str = "") -> MessageId: ...
    @staticmethod
    def parse(text: str) -> MessageId:
        """Read `NAME/epoch/seq`, or `0xKEY/epoch/seq`."""
    @property
    def node_key(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    @property
    def seq(self) -> int: ...
    @property
    def name(self) -> str:
        """The sender's name, if it is known; two ids are equal without it."""
    def numbers(self) -> tuple[int, int, int]:
        """Without the name."""
    def __eq__(self, other: object) -> bool: ...
    def __lt__(self, other: MessageId) -> bool: ...
    def __le__(self, other: MessageId) -> bool: ...
    def __gt__(self, other: MessageId) -> bool: ...
    def __ge__(self, other: MessageId) -> bool: ...
    def __hash__(self) -> int: ...

class Delivery:
    """A message for a hosted player; acked by `Node.handled`, or many by `Node.handled_many`."""

    def __new__(cls, content: int, payload: bytes, player: str, id: MessageId) -> Delivery: ...
    @property
    def content(self) -> int:
        """How to read the payload: 0 bytes, 1 text, 2 JSON."""
    @property
    def payload(self) -> bytes: ...
    @property
    def traced(self) -> bool:
        """Whether every hop of it is to be recorded."""
    @property
    def player(self) -> str: ...
    @property
    def id(self) -> MessageId: ...
    @property
    def must_deliver(self) -> bool:
        """Whether it is to be acked; `latest` and `droppable` are not, and have no place in a cursor."""
    @property
    def text(self) -> str:
        """The payload as UTF-8."""
    @property
    def value(self) -> Any:
        """What was sent: bytes, str, or what JSON holds."""
    def json(self) -> Any:
        """Parse the payload as JSON, whatever its flag says."""

class NodeCore:
    """A node of the bus. Without a socket the owner obeys the events and carries the frames.

    With one (`native`), `fileno` is watched for reading, `turn` is called when it is readable or at the time
    that `flush` gives, and `flush` after other calls; with `thread` no time is given.
    """

    def __new__(
        cls, now_ms: int, name: str, epoch: int, connection: int, roles: list[str], next_seq: int = 1
    ) -> NodeCore: ...
    @staticmethod
    def native(
        now_ms: int,
        name: str,
        epoch: int,
        connection: int,
        roles: list[str],
        next_seq: int,
        *,
        hub: str,
        keys: tuple[bytes, bytes] | None = None,
        thread: bool = False,
    ) -> NodeCore:
        """A node with a socket of its own. `keys`: the hub's public key and the node's secret one."""
    def fileno(self) -> int: ...
    def turn(self) -> list[tuple[Any, ...]]: ...
    def flush(self) -> int | None: ...
    @property
    def flushed(self) -> bool: ...
    @property
    def key_trouble(self) -> str: ...
    def set_keys(self, keys: tuple[bytes, bytes]) -> None: ...
    def post(self, player: str, payload: Any, options: _Options | None = None) -> MessageId | None: ...
    def posted(self) -> list[int]: ...
    def unicast_many(
        self, messages: list[tuple[str, Any]], start: int, options: _Options | None = None
    ) -> tuple[int, int]: ...
    def handled_many(self, deliveries: list[Delivery]) -> None: ...
    @property
    def key(self) -> int: ...
    @property
    def up(self) -> bool: ...
    @property
    def hub(self) -> tuple[int, int] | None:
        """Version and features of the hub, while it is there."""
    @property
    def has_events(self) -> bool: ...
    @property
    def unreceipted(self) -> int: ...
    def receive(self, now_ms: int, random: int, frames: list[bytes]) -> None: ...
    def timeout(self, now_ms: int, random: int) -> None: ...
    def next_timeout(self) -> int | None: ...
    def disconnected(self, now_ms: int, random: int, why: str) -> None: ...
    def frame(self, now_ms: int) -> bytes | None: ...
    def has_unsent(self) -> bool: ...
    def events(self) -> list[tuple[Any, ...]]: ...
    def unicast(
        self,
        player: str,
        content_flag: int,
        payload: bytes,
        repeat: int | None = None,
        options: _Options | None = None,
    ) -> int | None: ...
    def multicast(
        self,
        group: str,
        content_flag: int,
        payload: bytes,
        repeat: int | None = None,
        options: _Options | None = None,
    ) -> int | None: ...
    def broadcast(
        self,
        nodes: bool,
        content_flag: int,
        payload: bytes,
        repeat: int | None = None,
        options: _Options | None = None,
    ) -> int | None: ...
    def has_room(self, payload: bytes) -> bool: ...
    def request(
        self, now_ms: int, service: str, content_flag: int, payload: bytes, timeout_ms: int
    ) -> int | None: ...
    def query(self, now_ms: int, what: int, argument: str, timeout_ms: int) -> int | None: ...
    def cancel(self, call: int) -> None: ...
    def reply(self, call: int, ok: bool, content_flag: int, payload: bytes) -> bool: ...
    def attach(self, player: str, login: int, cursor: list[_Id]) -> list[Delivery] | None: ...
    def login_of(self, player: str) -> int | None: ...
    def handled(self, player: str, message: _Id) -> None: ...
    def detach(self, now_ms: int, player: str) -> None: ...
    def leave_player(self, player: str) -> bool: ...
    def member(self, join: bool, durable: bool, group: str, player: str) -> int | None: ...
    def subscribe(self, topics: int) -> None: ...
    def bye(self) -> None: ...
    def end(self) -> None: ...
    def counters(self) -> dict[str, int]: ...

# hub.rs

@final
class StoreBatch:
    """Operations of one transaction, as `zmqgame_bus.mailbox` describes them."""

    @property
    def number(self) -> int: ...
    @property
    def ops(self) -> list[tuple[Any, ...]]: ...
    def __len__(self) -> int: ...

@final
class HandledSums:
    """What the clients of a node have handled: counts and sums of hashed ids by second and sender."""

    def __init__(self) -> None: ...
    def add(self, id: tuple[int, int, int]) -> bool:
        """One message was handled. True: it is one of those that are sampled."""
    def take(self) -> list[tuple[int, int, int, int]]:
        """Second, sender's key, messages, sum: all since the last call."""
    @property
    def lost(self) -> int: ...

def message_hash(node_key: int, epoch: int, seq: int) -> tuple[int, bool]:
    """The hash of a message id that sums are made of, and whether such a message is sampled."""

class Hub:
    """The hub on its own thread, running since it was made; one other thread runs its store batches.

    Every method may be called from any thread. OSError: an endpoint can't be listened on, the text
    names it and what to do.
    """

    def __init__(
        self,
        listen: Sequence[str],
        *,
        hub_epoch: int,
        name: str = "hub",
        heartbeat_ms: int = 1_000,
        dead_ms: int = 3_000,
        node_grace_ms: int = 5_000,
        hub_grace_ms: int = 3_000,
        handshake_ms: int = 5_000,
        keep_ms: int = 2_592_000_000,
        player_messages: int = 1_000,
        player_bytes: int = 4_194_304,
        curve_secret_key: bytes | None = None,
        previous_secret_key: bytes | None = None,
        allowed: Sequence[tuple[bytes, str, Sequence[str]]] = (),
    ) -> None: ...
    def set_keys(
        self,
        *,
        curve_secret_key: bytes,
        previous_secret_key: bytes | None = None,
        allowed: Sequence[tuple[bytes, str, Sequence[str]]] = (),
    ) -> None: ...
    @property
    def endpoints(self) -> list[str]: ...
    def next_store_batch(self, timeout_ms: int) -> StoreBatch | None: ...
    def run_store(
        self, store: SqliteStore, timeout_ms: int
    ) -> tuple[list[float], list[tuple[str, str]], str | None]:
        """Run batches without the GIL, at most so long: their times, purges with their answers, and why
        the last one failed. Returns early when there is something to tell. StoreFailed: it is another's."""

    def complete(self, number: int, results: Sequence[tuple[Any, ...]]) -> None: ...
    def fail(self, number: int, reason: str) -> None: ...
    def counters(self) -> dict[str, int]: ...
    def status(self) -> bytes: ...
    def metrics(self) -> bytes: ...
    def take_trace(
        self, hops: int, *, all: bool = False
    ) -> tuple[
        list[tuple[int, str, tuple[int, int, int], str, str, int, str]],
        list[tuple[int, str, str, str, int, int]],
    ]: ...
    def set_note(self, json: str) -> None: ...
    def take_log(self) -> list[tuple[str, str, str, str]]: ...
    def stop(self, drain_ms: int) -> None: ...
    def wait(self, timeout_ms: int) -> str | None: ...

# zmtp.rs

class ZmtpRefused(Exception):
    """A connection that can't go on: `args` are the reason's kind and its words."""

class ZmtpPeer:
    """One end of a ZMTP 3.1 connection without a socket: bytes in, messages out, and the other way round."""

    def __init__(
        self,
        role: Literal["router", "dealer"],
        *,
        identity: bytes = b"",
        secret_key: bytes | None = None,
        server_key: bytes | None = None,
        allowed: Sequence[bytes] | None = None,
        entropy: bytes | None = None,
        now_ms: int = 0,
    ) -> None: ...
    def receive(self, data: bytes, now_ms: int = 0) -> list[bytes]: ...
    def send(self, payload: bytes) -> bool: ...
    def ping(self) -> None: ...
    def output(self) -> bytes: ...
    @property
    def ready(self) -> bool: ...
    @property
    def peer_key(self) -> bytes | None: ...
    @property
    def peer_identity(self) -> bytes: ...

def curve_keypair() -> tuple[bytes, bytes]:
    """Make a new CURVE key pair: public and secret, 32 bytes each."""

def curve_public(secret: bytes) -> bytes:
    """Return the public key that belongs to a secret one."""

# netcode.rs

NETCODE_TOKEN_BYTES: int
NETCODE_USER_DATA_BYTES: int

def netcode_connect_token(
    protocol_id: int,
    expire_s: int,
    timeout_s: int,
    client_id: int,
    addresses: list[str],
    private_key: bytes,
    user_data: bytes = b"",
) -> bytes:
    """A connect token that is valid for `expire_s` seconds from now; it connects once."""

@final
class NetcodeClient:
    """One client's session: datagrams in, datagrams out, no socket and no clock of its own."""

    def __new__(cls, token: bytes, unix_s: int = 0) -> Self: ...
    def handle_datagram(self, now_ms: int, datagram: bytes) -> list[bytes]:
        """One datagram from the current server: its payload in a list, or an empty one."""
    def poll(self, now_ms: int) -> list[bytes]:
        """Begins at the first call; time-outs, repeats, keep-alives: what is to be sent now."""
    def poll_timeout(self) -> int | None:
        """When `poll` has something to do by itself; None when the session is over."""
    def send(self, payload: bytes) -> None:
        """Sends with the next `poll`; ConnectionError unless connected, ValueError over 1,200 bytes."""
    def disconnect(self) -> None:
        """Ends the session; the goodbyes go out with the next `poll`."""
    @property
    def state(self) -> str: ...
    @property
    def connected(self) -> bool: ...
    @property
    def server(self) -> str: ...

# race.rs

@final
class Race:
    """A drag race, stepped tick by tick to the same bits on every machine. For any thread."""

    def __new__(
        cls, cars: Sequence[str | Mapping[str, Any]], distance_m: float = 402.336, tick_hz: int = 50
    ) -> Self:
        """Put cars at the start: built-in names, or fields, of which `base` names a built-in to vary."""
    def step(self, inputs: bytes) -> list[int]:
        """One tick from two bytes a car (gear, throttle): the numbers of cars that crossed the line in it."""
    def state(self) -> list[dict[str, Any]]:
        """What each car does, ready for JSON.

        position_m, speed_kmh, rpm, gear, shifting, spinning, finished, time_us and trap_kmh (0 until then).
        """
    def snapshot(self) -> bytes:
        """The whole state."""
    def restore(self, snapshot: bytes) -> None:
        """Go on from a snapshot of a race with the same cars, track and tick; ValueError changes nothing."""
    def hash(self) -> int:
        """The hash of the whole state, 64 bits."""
    def cars(self) -> list[dict[str, Any]]:
        """This race's cars, by number, with all fields."""
    @property
    def frame(self) -> int:
        """Ticks since the signal."""
    @property
    def finished(self) -> bool:
        """Whether every car has crossed the line."""
    @staticmethod
    def built_in() -> list[dict[str, Any]]:
        """The cars that can be named, the fastest class first."""
    @staticmethod
    def best_shifts(
        car: str | Mapping[str, Any], distance_m: float = 402.336, tick_hz: int = 50
    ) -> dict[str, Any] | None:
        """The best run: time_us, trap_kmh, shifts, shift_rpm by gear, curve (ms, m, km/h, rpm, gear).

        None if the car does not reach the line within three minutes.
        """
    @staticmethod
    def class_of(time_us: int) -> str:
        """The class of a time over a quarter mile: pro, super, sport or street."""
