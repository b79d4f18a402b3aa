//! The scenarios of bus/BUS.md section 12, by their names: real hub and node cores, every fault injected by hand.
//! Each ends with all handled once and in order, receipts true, and the mailbox empty.

mod groups;
mod hosts;
mod later;
mod links;
mod logins;
mod mailbox;
mod marks;
mod policies;
mod resends;
mod roster;
mod rows;
mod sessions;
mod slow_store;
