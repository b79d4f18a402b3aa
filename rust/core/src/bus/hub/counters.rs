//! What the hub counts. Numbers only grow.

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident),* $(,)?) => {
        /// Counts since the start of the hub.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: u64,)*
        }

        impl Counters {
            /// Names and values, in a fixed order.
            #[must_use]
            pub fn entries(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }
        }
    };
}

counters! {
    /// Frames read.
    frames_in,
    /// Bytes of frames read.
    bytes_in,
    /// Messages read.
    messages_in,
    /// Frames written.
    frames_out,
    /// Bytes of frames written.
    bytes_out,
    /// Connections made.
    connected,
    /// Links closed because of bytes that are no messages.
    malformed,
    /// Hellos refused: version, old epoch, name, key.
    hellos_refused,
    /// Hellos accepted.
    hellos,
    /// Links closed because nothing was heard.
    silent,
    /// Links closed because their node does not read.
    overflowed,
    /// Sends accepted from nodes, group sends and broadcasts as one.
    sends,
    /// Sends with the resend flag.
    resends,
    /// Sends, per recipient.
    recipients,
    /// Deliveries put on links, per recipient.
    deliveries,
    /// Acks of a binding that is not current.
    void_acks,
    /// Outcomes given: delivered.
    delivered,
    /// Outcomes given: stored.
    stored,
    /// Outcomes given: refused.
    refused,
    /// Outcomes given: busy.
    busy,
    /// Outcomes given: expired.
    expired,
    /// Outcomes given: sent.
    sent,
    /// Outcomes given: dropped.
    dropped,
    /// Outcomes given: passed.
    passed,
    /// Rows past their deadline that were passed over or deleted.
    expired_rows,
    /// Messages put on the deferred list.
    deferred,
    /// Players who got rows of deferred messages that were due.
    due,
    /// Queues that went to the mailbox because they were over their bound.
    spills,
    /// Logins and registrations answered with a binding.
    bound,
    /// Players dropped from a node because of a newer login.
    dropped_logins,
    /// Records of players who stayed away, forgotten.
    players_forgotten,
    /// Logouts done.
    logouts,
    /// Players whose host was lost.
    hosts_lost,
    /// Marks that nodes were told to forget.
    forgets,
    /// Marks that the store was told to trim.
    trims,
    /// Rows read from the mailbox.
    rows_read,
    /// Batches of the store completed.
    store_batches,
    /// Operations in them.
    store_ops,
    /// Batches that failed and were issued again.
    store_failures,
    /// Requests passed on.
    calls,
    /// Requests that ended without an answer of their handler.
    calls_failed,
}
