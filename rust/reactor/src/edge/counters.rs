//! What an edge counts: plain numbers that only grow, and gauges.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters of one edge, shared by its loops.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        impl Counters {
            /// Every counter's name and value.
            #[must_use]
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Ordering::Relaxed)),)*]
            }
        }
    };
}

counters! {
    /// Connections taken in, all transports.
    accepted,
    /// Connections refused: over the limit of connections.
    refused_connections,
    /// Connections refused: over the limit of one address.
    refused_address,
    /// Connections refused: not from one of the listener's proxies.
    refused_proxy,
    /// Connections refused: the buffers of all have reached their bound.
    refused_memory,
    /// Connections refused: the process is out of descriptors.
    refused_descriptors,
    /// Times a listener paused: the machine is out of something, or the consumer is behind.
    accept_pauses,
    /// Connections that have spoken and were told to the consumer.
    opened,
    /// Connections of those that have ended.
    closed,
    /// Outgoing connections that were made.
    connects,
    /// Outgoing connections that could not be made.
    connects_failed,
    /// TLS handshakes done as a server.
    tls_handshakes,
    /// WebSocket handshakes done.
    websockets,
    /// Packets that came in.
    packets_in,
    /// Bytes that came in.
    bytes_in,
    /// Packets that were taken for sending.
    packets_out,
    /// Bytes that went out.
    bytes_out,
    /// Packets that were not taken for sending: unknown or closed connection.
    refused_closed,
    /// Packets that were not taken for sending: over the bound of the connection or of all.
    refused_full,
    /// Connections closed because their outbound bound was reached.
    closed_full,
    /// Packets that were dropped by the outbound policy.
    dropped_policy,
    /// Connections closed because the buffers of all have reached their bound.
    closed_memory,
    /// Times reading of a connection paused because it has sent too much.
    throttled,
    /// Connections closed because no packet came for too long.
    closed_idle,
    /// Connections closed because no first packet came.
    closed_handshake,
    /// Connections closed because of bytes that are no packet, all kinds.
    bad_bytes,
    /// .. a packet shorter than its header.
    packet_too_short,
    /// .. a packet over the limit.
    packet_too_long,
    /// .. a packet of a kind that is the edge's own.
    packet_own_kind,
    /// .. a packet with flags or reserved bytes.
    packet_reserved,
    /// .. a frame that is none.
    bad_frame,
    /// .. bad TLS.
    bad_tls,
    /// .. a bad PROXY header.
    bad_proxy,
    /// .. a bad WebSocket request.
    bad_request,
    /// .. a bad WebSocket frame or message.
    bad_websocket,
    /// Threads of the edge that have died of a panic or a broken poll: their connections are closed.
    threads_died,
    /// Times reading paused because the consumer is behind.
    inbound_pauses,
    /// Datagrams that came in.
    datagrams_in,
    /// Datagrams that went out.
    datagrams_out,
    /// Datagrams that were dropped: malformed, forged, replayed, of no client, or no room to send.
    datagrams_refused,
    /// .. over its connection's packets or bytes a second.
    datagrams_over_rate,
    /// .. while its connection was paused.
    datagrams_paused,
    /// .. wrong length, kind or version.
    netcode_malformed,
    /// .. from an address without a session, or out of turn.
    netcode_unexpected,
    /// .. a request for another application.
    netcode_protocol,
    /// .. a token whose time is over.
    netcode_expired,
    /// .. not sealed with the right key.
    netcode_seal,
    /// .. a token for other servers.
    netcode_other_server,
    /// .. a token that was used.
    netcode_token_used,
    /// .. the address or client has a session.
    netcode_already_connected,
    /// .. no session free.
    netcode_server_full,
    /// .. a table or queue is full.
    netcode_busy,
    /// .. came before.
    netcode_replay,
}

impl Counters {
    /// One more.
    pub(super) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}
