//! The bus on sockets: ZMTP links on one loop, routed by whoever implements [`Router`].
//!
//! [`server::Server`] owns the sockets and knows nothing of the bus; [`link::Link`] is one of its
//! connections; [`hub::HubRouter`] is the hub of `zmqgame-core` behind the trait, and
//! [`hub::HubRunner`] the thread that it lives on with the ways in and out for other threads.
//!
//! On the other side [`dealer::Dealer`] drives the node of `zmqgame-core` over one socket, in the thread of its
//! owner, and [`dealer_thread::NativeNode`] does so on a thread of its own.

pub mod counters;
pub mod dealer;
pub mod dealer_socket;
pub mod dealer_thread;
pub mod gate;
pub mod hub;
pub mod limits;
pub mod link;
pub mod server;
pub mod store;
