//! What became of each message: one class each, and how many there are of it.

use std::fmt;

/// Messages by recipient, by what became of them. Nothing may be in the last four.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Classes {
    /// A true `delivered` or `stored`, and handled.
    pub acked: u64,
    /// No final receipt: the sender died.
    pub unknown: u64,
    /// A final word that is not an ack: refused, expired, dropped.
    pub answered: u64,
    /// Who joined a group after the first transmission, with a mark past it: neither acked nor lost.
    pub passed: u64,
    /// Acked and never handled, or no word at all to a sender that lives.
    pub lost: u64,
    /// Handled again by a session that knew it.
    pub duplicated: u64,
    /// Handled behind a later one of its sender.
    pub out_of_order: u64,
    /// Handled, and nobody sent it.
    pub never_sent: u64,
}

impl Classes {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.acked += other.acked;
        self.unknown += other.unknown;
        self.answered += other.answered;
        self.passed += other.passed;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.out_of_order += other.out_of_order;
        self.never_sent += other.never_sent;
    }
}

/// The members of a JSON object, without its braces.
impl fmt::Display for Classes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            acked,
            unknown,
            answered,
            passed,
            lost,
            duplicated,
            out_of_order,
            never_sent,
        } = self;
        write!(
            f,
            "\"acked\": {acked}, \"unknown\": {unknown}, \"answered\": {answered}, \"passed\": {passed}, \
             \"lost\": {lost}, \"duplicated\": {duplicated}, \"out_of_order\": {out_of_order}, \
             \"never_sent\": {never_sent}"
        )
    }
}
