//! Byte streams of clients: the buffer they wait in, the frames and packets they hold.
//!
//! `ring` keeps bytes, `frame` cuts a stream by any of the usual rules, `packet` is the project's own
//! client packet, decoded into columns. All are total: any bytes give packets or a typed error, and any
//! split of a stream gives the same packets.

pub mod frame;
pub mod framed;
pub mod packet;
pub mod ring;
