//! One UDP socket of a loop and the netcode sessions on it.
//!
//! The socket gives and takes batches (`sys`); what a datagram means is decided by core's netcode
//! server. A session is a connection like any other: its payloads are packets without prefix.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use zmqgame_core::edge::netcode::Key;
use zmqgame_core::edge::netcode::server::{
    ClientKey, Event, Received, Refusal, Server, ServerConfig, ServerEntropy,
};

use super::counters::Counters;
use super::shared::Shared;
use crate::sys::{
    DATAGRAMS_A_CALL, Datagrams, MOST_DATAGRAM_BYTES, Receiver, Sender, join_received,
};

/// Receives of one round: 8 x 64 datagrams; then it is the connections' turn.
pub(super) const RECEIVES_A_ROUND: usize = 8;
/// What a port takes without anything that waits to be sent: slots for datagrams as long as there are.
const PORT_BYTES: usize = DATAGRAMS_A_CALL * MOST_DATAGRAM_BYTES;
/// What may wait in a port even while all buffers together are over their bound.
pub(super) const ALWAYS_BYTES: usize = 128 << 10;
/// Bytes of a slot for one datagram: nothing of netcode is that long.
const SLOT_BYTES: usize = 2_048;
/// What is taken from the sessions' queue at once: the sender is empty again before more is taken.
const SEND_AT_ONCE_BYTES: usize = 256 << 10;
/// What the kernel may hold for us while the loop does other things; it may allow less.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// Binds the first of the addresses that can be; several sockets may share one with `reuse_port`.
pub(super) fn bind(address: &str, reuse_port: bool) -> io::Result<UdpSocket> {
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "the address names nothing");
    for address in address.to_socket_addrs()? {
        match bind_one(address, reuse_port) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn bind_one(address: SocketAddr, reuse_port: bool) -> io::Result<UdpSocket> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
    if reuse_port {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    // The kernel caps these; a small buffer only means that bursts are dropped earlier.
    let _ = sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES);
    let _ = sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES);
    rustix::net::bind(&socket, &address)?;
    Ok(UdpSocket::from(socket))
}

/// A port's part of what all buffers may have; given back when it is dropped.
#[derive(Debug)]
pub(super) struct PortMemory {
    shared: Arc<Shared>,
    bytes: usize,
}

impl PortMemory {
    /// That of a new port.
    pub(super) fn new(shared: &Arc<Shared>) -> io::Result<Self> {
        let mut memory = Self {
            shared: Arc::clone(shared),
            bytes: 0,
        };
        if memory.set(0) {
            return Ok(memory);
        }
        let limit = shared.config.max_memory_bytes;
        let port = PORT_BYTES + ALWAYS_BYTES;
        let what = format!("max_memory_bytes is {limit}: a UDP port takes {port} more");
        Err(io::Error::new(io::ErrorKind::QuotaExceeded, what))
    }

    /// Tells what its queues hold. Gives whether all together are within their bound.
    pub(super) fn set(&mut self, queues: usize) -> bool {
        let total = &self.shared.memory_bytes;
        let (before, bytes) = (self.bytes, PORT_BYTES + queues.max(ALWAYS_BYTES));
        self.bytes = bytes;
        if bytes > before {
            total.fetch_add(bytes - before, Ordering::Relaxed);
        } else if bytes < before {
            total.fetch_sub(before - bytes, Ordering::Relaxed);
        }
        total.load(Ordering::Relaxed) <= self.shared.config.max_memory_bytes
    }
}

impl Drop for PortMemory {
    fn drop(&mut self) {
        self.shared
            .memory_bytes
            .fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A bound UDP socket with what its sessions need: made by the handle, given to a loop.
pub struct UdpListener {
    socket: UdpSocket,
    config: ServerConfig,
    memory: PortMemory,
}

impl std::fmt::Debug for UdpListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the key.
        write!(f, "UdpListener({:?})", self.socket)
    }
}

impl UdpListener {
    /// Binds `host:port`. Clients' tokens name `public_address`, by default the bound one.
    pub(super) fn bind(
        address: &str,
        public_address: Option<&str>,
        protocol_id: u64,
        private_key: Key,
        shared: &Arc<Shared>,
    ) -> io::Result<Self> {
        let max_clients = u32::try_from(shared.config.max_connections).unwrap_or(u32::MAX);
        let memory = PortMemory::new(shared)?;
        let socket = bind(address, false)?;
        let bound = socket.local_addr()?;
        let public = match public_address {
            Some(text) => text.parse::<SocketAddr>().map_err(|_| {
                let text = format!("the public address {text:?} is not IP:PORT");
                io::Error::new(io::ErrorKind::InvalidInput, text)
            })?,
            None if bound.ip().is_unspecified() => {
                let text = "a socket on all addresses needs a public address: tokens name it";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            None => bound,
        };
        Ok(Self {
            socket,
            config: ServerConfig::new(protocol_id, private_key, public, max_clients),
            memory,
        })
    }

    pub(super) fn address(&self) -> io::Result<String> {
        Ok(self.socket.local_addr()?.to_string())
    }
}

/// What the loop is told about sessions.
pub(super) enum Happened<'a> {
    Connected {
        client: ClientKey,
        open: String,
        peer: SocketAddr,
    },
    Payload {
        client: ClientKey,
        bytes: &'a [u8],
    },
    Disconnected {
        client: ClientKey,
        why: &'static str,
    },
}

/// The socket and its sessions, on their loop.
pub(super) struct UdpPort {
    socket: UdpSocket,
    server: Server,
    receiver: Receiver,
    sender: Sender,
    /// Sessions that the consumer knows.
    pub(super) ids: SessionIds,
    memory: PortMemory,
    /// Whether the queue may grow.
    may_grow: bool,
    /// Whether the socket may hold more than was read.
    pub(super) readable: bool,
}

/// The connection of each session, by the place that its key names: one look at one array.
#[derive(Default)]
pub(super) struct SessionIds(Vec<(ClientKey, u64)>);

impl SessionIds {
    fn place(client: ClientKey) -> usize {
        client as u32 as usize
    }

    pub(super) fn insert(&mut self, client: ClientKey, id: u64) {
        let place = Self::place(client);
        if self.0.len() <= place {
            self.0.resize(place + 1, (0, 0));
        }
        self.0[place] = (client, id);
    }

    pub(super) fn get(&self, client: ClientKey) -> Option<u64> {
        let &(known, id) = self.0.get(Self::place(client))?;
        (known == client && id != 0).then_some(id)
    }

    pub(super) fn remove(&mut self, client: ClientKey) -> Option<u64> {
        let id = self.get(client)?;
        self.0[Self::place(client)] = (0, 0);
        Some(id)
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl UdpPort {
    pub(super) fn new(listener: UdpListener, now_ms: u64) -> io::Result<Self> {
        let mut random = [0; ServerEntropy::BYTES];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let entropy = ServerEntropy::from_bytes(&random);
        let joins = join_received(listener.socket.as_fd());
        Ok(Self {
            socket: listener.socket,
            server: Server::new(listener.config, &entropy, now_ms, unix_ms()),
            receiver: Receiver::new(if joins {
                MOST_DATAGRAM_BYTES
            } else {
                SLOT_BYTES
            }),
            sender: Sender::new(SEND_AT_ONCE_BYTES),
            ids: SessionIds::default(),
            memory: listener.memory,
            may_grow: true,
            readable: false,
        })
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads for one round; `tell` hears of everything in order and may end a session.
    pub(super) fn read(
        &mut self,
        now_ms: u64,
        counters: &Counters,
        mut tell: impl FnMut(&mut SessionIds, Happened<'_>) -> bool,
    ) {
        // An idle port has no ticks, and tokens' expiry follows the wall clock.
        self.server.handle_wall_clock(now_ms, unix_ms());
        for _ in 0..RECEIVES_A_ROUND {
            let count = match self.receiver.receive(self.socket.as_fd()) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    return;
                }
                // An earlier answer's ICMP error: taken by this call, the socket is fine.
                Err(_) => continue,
            };
            for index in 0..count {
                let Some(Datagrams {
                    from,
                    bytes,
                    each,
                    cut,
                }) = self.receiver.datagrams(index)
                else {
                    continue;
                };
                Counters::add(&counters.bytes_in, bytes.len() as u64);
                let datagrams = bytes.len().div_ceil(each).max(1) as u64;
                Counters::add(&counters.datagrams_in, datagrams);
                if cut || bytes.is_empty() {
                    count_refusal(Refusal::Malformed, counters);
                    continue;
                }
                for datagram in bytes.chunks_mut(each) {
                    match self.server.handle_datagram(now_ms, from, datagram) {
                        Received::Payload { client, bytes, .. } => {
                            if !tell(&mut self.ids, Happened::Payload { client, bytes }) {
                                self.server.disconnect(now_ms, client);
                            }
                        }
                        Received::Handled => {}
                        Received::Refused(refusal) => count_refusal(refusal, counters),
                    }
                    tell_events(&mut self.server, &mut self.ids, now_ms, &mut tell);
                }
            }
            if count < DATAGRAMS_A_CALL {
                // Emptied: what comes from now on is told as a new edge.
                self.readable = false;
                return;
            }
        }
    }

    /// Time has passed.
    pub(super) fn tick(
        &mut self,
        now_ms: u64,
        mut tell: impl FnMut(&mut SessionIds, Happened<'_>) -> bool,
    ) {
        self.server.handle_wall_clock(now_ms, unix_ms());
        self.server.handle_timeout(now_ms);
        tell_events(&mut self.server, &mut self.ids, now_ms, &mut tell);
    }

    /// When `tick` has something to do.
    pub(super) fn next_tick_ms(&self) -> Option<u64> {
        self.server.poll_timeout()
    }

    /// Queues a packet without prefix for a session; what can't go is counted.
    pub(super) fn write(
        &mut self,
        now_ms: u64,
        client: ClientKey,
        packet: &[u8],
        counters: &Counters,
    ) {
        if self.server.send(now_ms, client, packet).is_err() {
            Counters::add(&counters.datagrams_refused, 1);
        }
    }

    /// What waits to be sent.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.server.waiting_bytes()
    }

    /// .. to one client.
    pub(super) fn waiting_for(&mut self, client: ClientKey) -> usize {
        self.server.waiting_for(client)
    }

    /// Whether a payload of so many bytes may wait, too.
    pub(super) fn has_memory(&self, bytes: usize) -> bool {
        let needed = self.server.waiting_bytes() + bytes;
        self.may_grow || needed <= ALWAYS_BYTES.max(self.server.queue_memory_bytes() / 2)
    }

    /// Ends a session; the consumer has been told.
    pub(super) fn disconnect(&mut self, now_ms: u64, client: ClientKey) {
        self.ids.remove(client);
        self.server.disconnect(now_ms, client);
        while self.server.poll_event().is_some() {}
    }

    /// Sends what waits, until the socket is full.
    pub(super) fn flush(&mut self, counters: &Counters) {
        if self.server.waiting_bytes() > 0 || !self.sender.is_empty() {
            self.count_memory();
            self.send_all(counters);
            self.count_memory();
        }
    }

    fn count_memory(&mut self) {
        let held = self.server.queue_memory_bytes() + self.sender.memory_bytes();
        self.may_grow = self.memory.set(held);
    }

    fn send_all(&mut self, counters: &Counters) {
        loop {
            while self.sender.has_room() {
                let Some((to, bytes)) = self.server.poll_datagram() else {
                    break;
                };
                Counters::add(&counters.bytes_out, bytes.len() as u64);
                self.sender.push(to, bytes);
            }
            if self.sender.is_empty() {
                return;
            }
            let (sent, refused) = self.sender.send(self.socket.as_fd());
            Counters::add(&counters.datagrams_out, sent as u64);
            Counters::add(&counters.datagrams_refused, refused as u64);
            if !self.sender.is_empty() {
                return;
            }
        }
    }
}

fn tell_events(
    server: &mut Server,
    ids: &mut SessionIds,
    now_ms: u64,
    tell: &mut impl FnMut(&mut SessionIds, Happened<'_>) -> bool,
) {
    while let Some(event) = server.poll_event() {
        match event {
            Event::Connected {
                client,
                client_id,
                address,
                user_data,
            } => {
                let hex: String = user_data.iter().map(|byte| format!("{byte:02x}")).collect();
                let open = format!(
                    "{{\"transport\":\"udp\",\"peer\":\"{address}\",\"client_id\":\"{client_id}\",\
                     \"user_data\":\"{hex}\"}}"
                );
                let connected = Happened::Connected {
                    client,
                    open,
                    peer: address,
                };
                if !tell(ids, connected) {
                    server.disconnect(now_ms, client);
                }
            }
            Event::Disconnected { client, why, .. } => {
                tell(
                    ids,
                    Happened::Disconnected {
                        client,
                        why: why.as_str(),
                    },
                );
            }
        }
    }
}

fn count_refusal(refusal: Refusal, counters: &Counters) {
    Counters::add(&counters.datagrams_refused, 1);
    let counter = match refusal {
        Refusal::Malformed => &counters.netcode_malformed,
        Refusal::Unexpected => &counters.netcode_unexpected,
        Refusal::Protocol => &counters.netcode_protocol,
        Refusal::Expired => &counters.netcode_expired,
        Refusal::Seal => &counters.netcode_seal,
        Refusal::OtherServer => &counters.netcode_other_server,
        Refusal::TokenUsed => &counters.netcode_token_used,
        Refusal::AlreadyConnected => &counters.netcode_already_connected,
        Refusal::ServerFull => &counters.netcode_server_full,
        Refusal::Busy => &counters.netcode_busy,
        Refusal::Replay => &counters.netcode_replay,
    };
    Counters::add(counter, 1);
}
