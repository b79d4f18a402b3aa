//! gnet's test matrix for the streams of the edge, and what gnet has not: TLS, limits, balancing, outgoing
//! connections. The rows of UDP are in `edge_matrix_udp.rs`.

#[path = "../common/mod.rs"]
mod common;

mod clients;
mod crowd;
mod echo;
mod ends;
mod life;
mod limits;
mod outgoing;
mod tls;
