//! `Edge`: the client edge for Python.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use zmqgame_core::stream::frame;
use zmqgame_reactor::edge::config::{
    Balance, ConnectTls, EdgeConfig, Framing, ListenOptions, OutboundPolicy, Proxies, TlsFiles,
};
use zmqgame_reactor::edge::{self, WebSocketUrl};

use crate::inline;
use crate::packet::PacketBatch;
use crate::ring::FrameDecoder;
use crate::serve::{self, Serving, Stop};
use crate::write::{self, To};

/// Connections of many clients as batches of packets.
///
/// Native threads own the sockets. `receive` takes what has come from all clients as one batch; all
/// methods may be called from any thread, and at most one serves. Everything that waits is bounded.
/// docs/edge.md tells more: the edge's own rows, limits, counters, ends.
///
/// Start the loops, a thread each, and one that takes connections in and does TLS handshakes.
///
/// A connection is closed when it gives no whole packet in `idle_ms`, no first packet (WebSocket: no
/// request) in `handshake_ms`, a packet of more than `max_packet_bytes`, or when more than
/// `max_outbound_bytes` wait to be read by its client. Beyond `max_connections` new ones are closed at
/// once, beyond `max_outbound_total_bytes` in all queues `send` refuses, beyond `max_inbound_bytes` of
/// packets not taken yet reading pauses.
///
/// `balance` says which loop gets a connection. `max_connections_per_address` counts an IPv4 address or
/// an IPv6 network of 64 bits. A connection that sends more than `packets_per_s` or `bytes_per_s`, with a
/// burst on top (0: that of one second), is not read until it may again: nothing is lost. In all these 0
/// means any. At `max_outbound_bytes` a connection is closed, or (`drop_newest`) the packet refused, or
/// (`drop_droppable`) packets of `droppable_kinds` refused from half of the bound on. Buffers of all
/// connections, in and out, have at most `max_memory_bytes`: beyond, new connections are refused and
/// who needs more is closed.
///
/// The same for UDP, with what datagrams allow: over its rates they are dropped; what waits for a
/// connection in its port has the bound and the policy above, and at most 2 MiB of the port's 8: beyond
/// that it is lost, as in the network. A port counts as 4.2 MiB of memory; listening fails where there
/// is less.
#[pyclass(frozen, module = "zmqgame_native")]
pub struct Edge {
    inner: edge::Edge,
    /// Who serves it.
    pub serving: Serving,
    stopped: AtomicBool,
}

impl Edge {
    /// The edge itself.
    pub fn inner(&self) -> &edge::Edge {
        &self.inner
    }

    fn limit(&self) -> usize {
        self.inner.config().max_packet_bytes
    }

    /// Does what waits for an answer of a loop, without the GIL. On the loop, which would wait for itself, it
    /// fails instead.
    fn ask<T: Send>(
        &self,
        py: Python<'_>,
        ask: impl FnOnce(&edge::Edge) -> io::Result<T> + Send,
    ) -> PyResult<T> {
        self.serving.check_not_on_loop()?;
        Ok(py.detach(|| ask(&self.inner))?)
    }

    /// All packets that are there.
    pub fn take_batch(&self) -> PacketBatch {
        PacketBatch::new(self.inner.receive(), self.inner.returns())
    }

    /// Whether it has stopped, and so nothing more will come than is there now.
    pub fn has_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Stops it, and wakes who serves it.
    pub fn stop_now(&self, drain_ms: u64) {
        self.inner.stop(drain_ms);
        self.stopped.store(true, Ordering::Release);
        self.inner.wake();
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        // Its loops may need the GIL to end. At the interpreter's own end nobody does.
        let stopped = Python::try_attach(|py| py.detach(|| self.inner.stop(0)));
        if stopped.is_none() {
            self.inner.stop(0);
        }
    }
}

/// How a byte stream is read: a name, or the rule of a decoder.
#[derive(FromPyObject)]
enum Given<'py> {
    Name(PyBackedStr),
    Decoder(Bound<'py, FrameDecoder>),
}

/// The framing that was asked for; the project's packets if none was. Lines and frames are limited as
/// packets are, unless a decoder has a limit of its own.
fn framing_of(given: Option<&Given<'_>>, limit: usize) -> PyResult<Framing> {
    let rule = match given {
        None => return Ok(Framing::Packets),
        Some(Given::Name(name)) => match &**name {
            "packets" => return Ok(Framing::Packets),
            "raw" => return Ok(Framing::Raw),
            "lines" => frame::Framing::line(limit),
            other => {
                return Err(PyValueError::new_err(format!(
                    "framing is {other:?}: must be 'packets', 'raw', 'lines' or a FrameDecoder"
                )));
            }
        },
        Some(Given::Decoder(decoder)) => Ok(decoder.get().framing()),
    };
    let rule = rule
        .and_then(|rule| rule.check_both_ways().map(|()| rule))
        .map_err(|bad| PyValueError::new_err(bad.to_string()))?;
    Ok(Framing::Frames(Arc::new(rule)))
}

/// Whose PROXY headers are believed: everybody's, nobody's, or those from some networks.
#[derive(FromPyObject)]
enum Proxied {
    Any(bool),
    Of(Vec<String>),
}

impl Proxied {
    fn proxies(&self) -> PyResult<Proxies> {
        match self {
            Self::Any(any) => Ok(Proxies::from(*any)),
            Self::Of(networks) => Proxies::of(networks)
                .map_err(|bad| PyValueError::new_err(format!("proxy_protocol: {bad}"))),
        }
    }
}

fn balance_of(name: &str) -> PyResult<Balance> {
    match name {
        "round_robin" => Ok(Balance::RoundRobin),
        "least_connections" => Ok(Balance::LeastConnections),
        "source_hash" => Ok(Balance::SourceHash),
        other => Err(PyValueError::new_err(format!(
            "balance is {other:?}: must be 'round_robin', 'least_connections' or 'source_hash'"
        ))),
    }
}

fn policy_of(name: &str) -> PyResult<OutboundPolicy> {
    match name {
        "close" => Ok(OutboundPolicy::Close),
        "drop_newest" => Ok(OutboundPolicy::DropNewest),
        "drop_droppable" => Ok(OutboundPolicy::DropDroppable),
        other => Err(PyValueError::new_err(format!(
            "outbound_policy is {other:?}: must be 'close', 'drop_newest' or 'drop_droppable'"
        ))),
    }
}

#[pymethods]
impl Edge {
    #[new]
    #[pyo3(signature = (
        *,
        loops = 1,
        max_connections = 10_000,
        max_packet_bytes = 65_536,
        max_outbound_bytes = 1_048_576,
        max_outbound_total_bytes = 268_435_456,
        max_inbound_bytes = 67_108_864,
        idle_ms = 30_000,
        handshake_ms = 5_000,
        connect_ms = 5_000,
        balance = "round_robin",
        max_connections_per_address = 0,
        packets_per_s = 0,
        packets_burst = 0,
        bytes_per_s = 0,
        bytes_burst = 0,
        outbound_policy = "close",
        droppable_kinds = Vec::new(),
        max_memory_bytes = 1 << 30,
    ))]
    #[expect(
        clippy::too_many_arguments,
        reason = "keyword arguments of the Python class"
    )]
    fn new(
        loops: usize,
        max_connections: usize,
        max_packet_bytes: usize,
        max_outbound_bytes: usize,
        max_outbound_total_bytes: usize,
        max_inbound_bytes: usize,
        idle_ms: u64,
        handshake_ms: u64,
        connect_ms: u64,
        balance: &str,
        max_connections_per_address: usize,
        packets_per_s: u64,
        packets_burst: u64,
        bytes_per_s: u64,
        bytes_burst: u64,
        outbound_policy: &str,
        droppable_kinds: Vec<u8>,
        max_memory_bytes: usize,
    ) -> PyResult<Self> {
        let config = EdgeConfig {
            loops,
            max_connections,
            max_packet_bytes,
            max_outbound_bytes,
            max_outbound_total_bytes,
            max_inbound_bytes,
            idle_ms,
            handshake_ms,
            connect_ms,
            balance: balance_of(balance)?,
            max_connections_per_address,
            packets_per_s,
            packets_burst,
            bytes_per_s,
            bytes_burst,
            outbound_policy: policy_of(outbound_policy)?,
            droppable_kinds: droppable_kinds.into_iter().collect(),
            max_memory_bytes,
        };
        config
            .check()
            .map_err(|bad| PyValueError::new_err(bad.to_string()))?;
        Ok(Self {
            inner: edge::Edge::start(config)?,
            serving: Serving::default(),
            stopped: AtomicBool::new(false),
        })
    }

    /// Listen on `host:port` (port 0: a free one); return the address it is bound to.
    ///
    /// Framing `packets`: the project's client packets, WebSocket on the same port. Framing `raw`: each
    /// read is a packet of kind 0, and what is sent goes out as it is. `lines`, or the rule of a
    /// FrameDecoder: each frame is a packet of kind 0, and what a frame is cut by (line end, delimiter,
    /// length) is put back when one is sent. Raise OSError when it can't.
    ///
    /// With `tls` (PEM files: certificate chain, key) it speaks TLS 1.3 or 1.2. With `proxy_protocol` each
    /// connection must begin with a PROXY protocol header of version 2, whose client becomes the peer. True
    /// believes everybody who can connect; a list of networks (`["10.0.0.0/8", "192.0.2.7"]`) refuses who is
    /// in none of them (counter `refused_proxy`). With `keepalive_s` the kernel asks silent machines whether
    /// they live. TCP_NODELAY is always on.
    #[pyo3(signature = (
        address, *, framing = None, tls = None, proxy_protocol = Proxied::Any(false), reuse_port = false, keepalive_s = 0
    ), text_signature = "($self, address, *, framing='packets', tls=None, proxy_protocol=False, reuse_port=False, keepalive_s=0)")]
    #[expect(
        clippy::too_many_arguments,
        reason = "keyword arguments of the Python method"
    )]
    fn listen_tcp(
        &self,
        py: Python<'_>,
        address: &str,
        framing: Option<Given<'_>>,
        tls: Option<(PathBuf, PathBuf)>,
        proxy_protocol: Proxied,
        reuse_port: bool,
        keepalive_s: u32,
    ) -> PyResult<String> {
        let options = ListenOptions {
            framing: framing_of(framing.as_ref(), self.limit())?,
            tls: tls.map(|(certificate, key)| TlsFiles { certificate, key }),
            proxy_protocol: proxy_protocol.proxies()?,
            reuse_port,
            keepalive_s,
        };
        Ok(py.detach(|| self.inner.listen_tcp(address, options))?)
    }

    /// Listen on a path; like `listen_tcp`. A socket that a dead process left there is replaced.
    ///
    /// With `proxy_protocol` whoever may open the path is a proxy.
    #[pyo3(
        signature = (path, *, framing = None, proxy_protocol = false),
        text_signature = "($self, path, *, framing='packets', proxy_protocol=False)"
    )]
    fn listen_unix(
        &self,
        py: Python<'_>,
        path: PathBuf,
        framing: Option<Given<'_>>,
        proxy_protocol: bool,
    ) -> PyResult<String> {
        let framing = framing_of(framing.as_ref(), self.limit())?;
        let mut options = ListenOptions::from(framing);
        options.proxy_protocol = proxy_protocol.into();
        Ok(py.detach(|| self.inner.listen_unix(&path, options))?)
    }

    /// Read the certificates and keys of all listeners again, for connections that come from now on.
    ///
    /// Raise OSError when some can't be used; their listeners keep what they had.
    fn reload_tls(&self, py: Python<'_>) -> PyResult<()> {
        Ok(py.detach(|| self.inner.reload_tls())?)
    }

    /// Connect to `host:port`; return the connection at once.
    ///
    /// Its open row comes when it is there, its close row when it can't be made in `connect_ms`; from then
    /// on it is like those that clients make. `tls` is a PEM file of the certificates that are trusted; the
    /// server's must have `server_name`, by default the host. Raise OSError when the name does not resolve.
    #[pyo3(
        signature = (address, *, framing = None, tls = None, server_name = None),
        text_signature = "($self, address, *, framing='packets', tls=None, server_name=None)"
    )]
    fn connect_tcp(
        &self,
        py: Python<'_>,
        address: &str,
        framing: Option<Given<'_>>,
        tls: Option<PathBuf>,
        server_name: Option<String>,
    ) -> PyResult<u64> {
        let framing = framing_of(framing.as_ref(), self.limit())?;
        // The name that was asked for, without its port and the brackets of an IPv6 address.
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_matches(['[', ']']);
        let tls = tls.map(|authorities| ConnectTls {
            authorities,
            server_name: server_name.unwrap_or_else(|| host.to_owned()),
        });
        self.ask(py, |edge| edge.connect_tcp(address, framing, tls.as_ref()))
    }

    /// Connect to a WebSocket, `ws://host:port/path` or `wss://...`, whose binary messages are packets.
    ///
    /// Like `connect_tcp`; the open row comes with the server's answer. A `wss` URL needs `tls`. Raise
    /// ValueError when it is no such URL.
    #[pyo3(signature = (url, *, tls = None, server_name = None))]
    fn connect_websocket(
        &self,
        py: Python<'_>,
        url: &str,
        tls: Option<PathBuf>,
        server_name: Option<String>,
    ) -> PyResult<u64> {
        let invalid = |error: io::Error| PyValueError::new_err(error.to_string());
        let url = WebSocketUrl::parse(url).map_err(invalid)?;
        if url.has_tls() != tls.is_some() {
            let what = "a wss:// URL needs tls, and a ws:// URL has no use for it";
            return Err(PyValueError::new_err(what));
        }
        let tls = tls.map(|authorities| ConnectTls {
            authorities,
            server_name: server_name.unwrap_or_else(|| url.host().to_owned()),
        });
        self.ask(py, |edge| edge.connect_websocket(&url, tls.as_ref()))
    }

    /// Connect to a path; like `connect_tcp`. Raise OSError when there is nobody.
    #[pyo3(signature = (path, *, framing = None), text_signature = "($self, path, *, framing='packets')")]
    fn connect_unix(
        &self,
        py: Python<'_>,
        path: PathBuf,
        framing: Option<Given<'_>>,
    ) -> PyResult<u64> {
        let framing = framing_of(framing.as_ref(), self.limit())?;
        self.ask(py, |edge| edge.connect_unix(&path, framing))
    }

    /// Read a connection no more: what its client sends waits in the network; it is not called idle.
    ///
    /// Datagrams can't wait: those of a paused connection are dropped (counter `datagrams_paused`). What was
    /// read before may still come. When a stream's client closes, what that sent before waits as long as a
    /// client may be idle (30 s where `idle_ms` is 0); if it is not resumed by then, the connection closes.
    /// Nothing happens when the connection is closed.
    fn pause(&self, connection: u64) {
        self.inner.pause(connection);
    }

    /// Read a connection again. Nothing happens when it is closed or was not paused.
    fn resume(&self, connection: u64) {
        self.inner.resume(connection);
    }

    /// Listen for netcode 1.02 sessions on `host:port`; return the address it is bound to.
    ///
    /// Connect tokens must be sealed with `private_key` (32 bytes) and name `public_address`, by default
    /// the bound one. The open packet's JSON also has `client_id` (decimal) and `user_data` (hex).
    #[pyo3(signature = (address, *, protocol_id, private_key, public_address = None))]
    fn listen_udp(
        &self,
        py: Python<'_>,
        address: &str,
        protocol_id: u64,
        private_key: [u8; 32],
        public_address: Option<&str>,
    ) -> PyResult<String> {
        self.ask(py, |edge| {
            edge.listen_udp(address, public_address, protocol_id, private_key)
        })
    }

    /// Listen for plain datagrams on `host:port`, each loop on a socket of its own; return the address.
    ///
    /// A datagram is a packet of kind 0, and `send` sends the payload alone. A remote address is a connection
    /// from its first datagram until it is silent for `idle_ms`; addresses can be forged, so answer with no
    /// more than what was asked, or use `listen_udp`.
    fn listen_udp_plain(&self, py: Python<'_>, address: &str) -> PyResult<String> {
        self.ask(py, |edge| edge.listen_udp_plain(address))
    }

    /// Return the descriptor that is readable when `receive` has something: for `loop.add_reader`.
    fn fileno(&self) -> i32 {
        self.inner.raw_fd()
    }

    /// Take all packets that are there, opens and closes of connections included. Never waits.
    ///
    /// What was taken before counts as answered, as with `wait`: see the end of half-closed clients in
    /// docs/edge.md. Raise OSError when a thread of the edge has died and all rows were taken.
    fn receive(&self) -> PyResult<PacketBatch> {
        let batch = self.take_batch();
        if batch.batch().is_empty() {
            self.inner.check_threads()?;
        }
        Ok(batch)
    }

    /// Wait, without the GIL, until `receive` has something; return whether it has.
    ///
    /// False after `timeout_ms`, or when a signal has come. `wake` and a stop end the wait, too: then there
    /// may be nothing to receive. Raise OSError when a thread of the edge has died and all rows were taken.
    fn wait(&self, py: Python<'_>, timeout_ms: u64) -> PyResult<bool> {
        Ok(py.detach(|| self.inner.wait(timeout_ms))?)
    }

    /// Queue packets; return how many were refused.
    ///
    /// `writes` is rows of (connection, kind, sequence, payload), a `WriteBatch`, or a `PacketBatch`: its
    /// packets go back to where they came from, the edge's own rows are left out.
    ///
    /// Refused are packets to a connection that is closed or over its bound (it gets closed), and all
    /// packets while the bound over all connections is reached. The counters tell which. What one call sends
    /// to a connection goes out in that order; taken means queued, not received.
    fn send(&self, writes: &Bound<'_, PyAny>) -> PyResult<usize> {
        write::send(To::Edge(&self.inner), writes)
    }

    /// Call `handler` with each batch and send what it returns, until the edge is stopped.
    ///
    /// I/O goes on while the handler runs: what comes meanwhile is the next batch. `on_tick` is called
    /// every `tick_ms` and may return the next interval (0 ends it). `stop` may be called in the handler
    /// (what it returns is sent first), in a signal's handler, or by any thread. An exception of a handler
    /// ends the serving and is raised; the edge is not stopped by it.
    ///
    /// With `inline` handler and ticker are called on the loop's own thread, and what they return goes
    /// straight into the connections: the quickest for a handler that takes microseconds. While it runs, or
    /// waits for the GIL, nobody is read or written, so it must not block, and no other thread should keep
    /// the GIL busy. It is for one loop, else ValueError is raised; in it `connect_tcp`,
    /// `connect_unix`, `connect_websocket`, `listen_udp` and `listen_udp_plain` raise RuntimeError.
    #[pyo3(signature = (handler, *, on_tick = None, tick_ms = 0, inline = false))]
    fn serve(
        slf: &Bound<'_, Self>,
        handler: &Bound<'_, PyAny>,
        on_tick: Option<Py<PyAny>>,
        tick_ms: u64,
        inline: bool,
    ) -> PyResult<()> {
        let serve = if inline { inline::serve } else { serve::serve };
        serve(slf, handler, on_tick, tick_ms)
    }

    /// Serve on the running asyncio (or uvloop) loop like `serve`; await the future, or cancel it.
    ///
    /// The handler may be a coroutine function: the next batch is taken when it has returned. `stop` by
    /// the handler drains when what it returns is sent, `stop` by another task at once: what a handler that
    /// waits meanwhile returns is refused. It drains beside the loop; the future is done when it has.
    #[pyo3(signature = (handler, *, on_tick = None, tick_ms = 0))]
    fn serve_async<'py>(
        slf: &Bound<'py, Self>,
        handler: &Bound<'py, PyAny>,
        on_tick: Option<Py<PyAny>>,
        tick_ms: u64,
    ) -> PyResult<Bound<'py, PyAny>> {
        serve::serve_async(slf, handler, on_tick, tick_ms)
    }

    /// Let `wait` return, as if packets had come.
    fn wake(&self) {
        self.inner.wake();
    }

    /// Close a connection after what was sent to it before.
    ///
    /// A WebSocket is told the reason, at most 123 bytes of it. Its close row comes in any case. Nothing
    /// happens when it is closed.
    #[pyo3(signature = (connection, reason = ""))]
    fn close(&self, connection: u64, reason: &str) {
        self.inner.close(connection, reason);
    }

    /// Return where a connection comes from, as its open row does; None when it is closed.
    fn peer(&self, connection: u64) -> Option<String> {
        self.inner.peer(connection)
    }

    /// How many connections there are, those included that have not spoken yet or are being closed.
    #[getter]
    fn connections(&self) -> usize {
        self.inner.connections()
    }

    /// Return the counters by name; those that end with `_now` are gauges, the others only grow.
    fn counters(&self) -> BTreeMap<&'static str, u64> {
        let mut all: BTreeMap<_, _> = self.inner.counters().snapshot().into_iter().collect();
        all.insert("connections_now", self.inner.connections() as u64);
        all.insert("outbound_bytes_now", self.inner.outbound_bytes() as u64);
        all.insert("memory_bytes_now", self.inner.memory_bytes() as u64);
        all.insert("queue_bytes_now", self.inner.queue_bytes() as u64);
        all
    }

    /// Take nothing in any more, send what is queued, close everything; wait at most `drain_ms`.
    ///
    /// It waits, unless the thread that serves calls it: then it returns at once, what the handler returns is
    /// still sent, and the serving ends when everything is closed. What came before can still be received.
    /// A second call waits, too.
    #[pyo3(signature = (drain_ms = 1_000))]
    fn stop(slf: &Bound<'_, Self>, drain_ms: u64) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        match this.serving.ask_stop(py, drain_ms)? {
            Stop::Here => py.detach(|| this.stop_now(drain_ms)),
            Stop::Beside => serve::stop_beside(slf.clone().unbind(), drain_ms)?,
            Stop::Deferred => this.inner.wake(),
        }
        Ok(())
    }
}

/// Adds what this file defines.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Edge>()
}
