//! Sockets, event loops, timers and wake-ups: drives what `zmqgame-core` decides.
