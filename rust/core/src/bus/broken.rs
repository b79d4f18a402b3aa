//! Rules of BUS.md that a test build takes away one at a time: the simulation has to notice each.
//!
//! Only the feature `broken` can take one away, and nothing that is shipped has it. Without it [`Broken`] has no
//! size and [`Broken::lacks`] is `false` before the compiler is done.

/// A rule, by what holds because of it. The number is that of BUS.md section 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum Rule {
    /// 1: what has no receipt is sent again.
    Resend,
    /// 1: old before new after a reconnect.
    OldFirst,
    /// 4: a hello ends the older connection of that node.
    OneConnection,
    /// 5: a late hello of a dead connection is refused.
    LateHello,
    /// 7: memory goes to the mailbox whole.
    WholeSpill,
    /// 8: a read sees every append issued before it.
    StoreOrder,
    /// 9: a lost host's messages go to the mailbox.
    AppendOfLost,
    /// 10: `stored` after the commit.
    StoredAtCommit,
    /// 10: `delivered` after the ack.
    DeliveredAtAck,
    /// 11: an older login is dropped at registration.
    NewestLogin,
    /// 12: logins and bindings carry the hub epoch.
    EpochInLogin,
    /// 13: the replaced host is told.
    DropOfReplaced,
    /// 14: every login and registration has its own binding.
    FreshBinding,
    /// 15: the mailbox goes out before memory.
    MailboxFirst,
    /// 18: what the store accepted is not delivered from memory.
    AcceptedAtLive,
    /// 20: an append inserts no id twice.
    AppendOnce,
    /// 21: rows are read, not taken.
    RowsStay,
    /// 22: row numbers are never reused.
    RowsGrow,
    /// 24: marks wait for the sender's low.
    TrimWaits,
    /// 24: marks of the deferred list end, also those that an earlier hub had made.
    DeferredMarksEnd,
    /// 25: acks wait for the handler.
    AckAfterHandling,
    /// 26: what the cursor covers is not handled again.
    CursorHolds,
    /// 26: what the cursor covers is acked.
    CoveredIsAcked,
    /// 27: the client keeps its cursor.
    #[cfg(feature = "broken")]
    ClientCursor,
    /// 28: only a client that names the login resumes.
    ResumeByLogin,
    /// 29: only the answer to the last request counts.
    LastRequest,
    /// 31: a logout carries the cursor.
    LogoutCursor,
    /// 31: a logout deletes the rows up to the cursor.
    LogoutRows,
    /// 31: `logout_done` after the commit.
    LogoutAtCommit,
    /// 32: `forget` waits for rows to be settled.
    ForgetWaitsForRows,
    /// 32: `forget` waits for the sender's low.
    ForgetWaitsForLow,
    /// 33: messages of `latest` and `droppable` move no cursor.
    PolicyHasNoMark,
    /// 33: they do not overtake what waits.
    PolicyKeepsPlace,
    /// 33: a newer `latest` takes the place of the one with its key.
    LatestReplaces,
    /// 34: what is in `sent` does not expire.
    SentStays,
    /// 34: a row past its deadline is passed over.
    ExpiredIsPassedOver,
    /// 35: a resend is never over the quota.
    QuotaSparesResends,
    /// 36: nothing passes a busy message.
    BusyHolds,
    /// 37: a deferred message is due under an id of its list.
    DueHasOwnId,
    /// 39: all members' lines are entered in the step in which a group send is accepted.
    GroupInOneStep,
    /// 40: who may have joined after a group send was first sent is told as `passed`.
    PassedForLate,
}

#[cfg(feature = "broken")]
impl Rule {
    /// All of them, with their numbers.
    pub const ALL: [(u8, Self); 41] = [
        (1, Self::Resend),
        (1, Self::OldFirst),
        (4, Self::OneConnection),
        (5, Self::LateHello),
        (7, Self::WholeSpill),
        (8, Self::StoreOrder),
        (9, Self::AppendOfLost),
        (10, Self::StoredAtCommit),
        (10, Self::DeliveredAtAck),
        (11, Self::NewestLogin),
        (12, Self::EpochInLogin),
        (13, Self::DropOfReplaced),
        (14, Self::FreshBinding),
        (15, Self::MailboxFirst),
        (18, Self::AcceptedAtLive),
        (20, Self::AppendOnce),
        (21, Self::RowsStay),
        (22, Self::RowsGrow),
        (24, Self::TrimWaits),
        (24, Self::DeferredMarksEnd),
        (25, Self::AckAfterHandling),
        (26, Self::CursorHolds),
        (26, Self::CoveredIsAcked),
        (27, Self::ClientCursor),
        (28, Self::ResumeByLogin),
        (29, Self::LastRequest),
        (31, Self::LogoutCursor),
        (31, Self::LogoutRows),
        (31, Self::LogoutAtCommit),
        (32, Self::ForgetWaitsForRows),
        (32, Self::ForgetWaitsForLow),
        (33, Self::PolicyHasNoMark),
        (33, Self::PolicyKeepsPlace),
        (33, Self::LatestReplaces),
        (34, Self::SentStays),
        (34, Self::ExpiredIsPassedOver),
        (35, Self::QuotaSparesResends),
        (36, Self::BusyHolds),
        (37, Self::DueHasOwnId),
        (39, Self::GroupInOneStep),
        (40, Self::PassedForLate),
    ];

    /// Rules whose absence does no harm in this code. 5, late hellos: a node sends nothing but its hello before the
    /// welcome, so a dead connection that takes over has nothing to be read; the live one is closed, and its node
    /// connects once more.
    pub const HARMLESS: [Self; 1] = [Self::LateHello];
}

/// The rule that is taken away, if any.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Broken {
    #[cfg(feature = "broken")]
    rule: Option<Rule>,
}

impl Broken {
    /// Every rule holds.
    pub const NONE: Self = Self {
        #[cfg(feature = "broken")]
        rule: None,
    };

    /// All rules but this one.
    #[cfg(feature = "broken")]
    #[must_use]
    pub const fn without(rule: Rule) -> Self {
        Self { rule: Some(rule) }
    }

    /// Whether this rule was taken away.
    #[inline]
    #[must_use]
    pub fn lacks(self, rule: Rule) -> bool {
        #[cfg(feature = "broken")]
        return self.rule == Some(rule);
        #[cfg(not(feature = "broken"))]
        {
            let _ = rule;
            false
        }
    }
}
