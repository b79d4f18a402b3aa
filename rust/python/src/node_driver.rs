//! What carries a node's frames: its owner, or a native socket on this thread or on one of its own.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use zmqgame_core::bus::node::Node;
use zmqgame_core::bus::node::event::NodeEvent;
use zmqgame_core::zmtp::Security;
use zmqgame_reactor::bus::dealer::Dealer;
use zmqgame_reactor::bus::dealer_thread::NativeNode;

pub enum Driver {
    /// The owner reads and writes frames.
    Frames(Box<Node>),
    /// The owner's loop watches the descriptor.
    Inline(Box<Dealer>),
    /// A thread does all but the owner's own writes.
    Thread {
        node: NativeNode,
        events: VecDeque<NodeEvent>,
        /// Kept here: it never changes.
        key: u64,
    },
}

impl Driver {
    pub fn threaded(node: NativeNode) -> Self {
        Self::Thread {
            key: node.queue(|node, _| node.key()),
            node,
            events: VecDeque::new(),
        }
    }

    pub fn key(&self) -> u64 {
        match self {
            Self::Frames(node) => node.key(),
            Self::Inline(dealer) => dealer.node_ref().key(),
            Self::Thread { key, .. } => *key,
        }
    }

    /// Runs calls of the node; what they leave waits for a flush.
    pub fn with<T>(&mut self, calls: impl FnOnce(&mut Node) -> T) -> T {
        match self {
            Self::Frames(node) => calls(node),
            Self::Inline(dealer) => calls(dealer.node()),
            Self::Thread { node, .. } => node.queue(|node, _| calls(node)),
        }
    }

    /// Looks at the node.
    pub fn look<T>(&self, look: impl FnOnce(&Node) -> T) -> T {
        match self {
            Self::Frames(node) => look(node),
            Self::Inline(dealer) => look(dealer.node_ref()),
            Self::Thread { node, .. } => node.queue(|node, _| look(node)),
        }
    }

    /// The next event, in order; after [`Driver::begin_events`].
    pub fn poll_event(&mut self) -> Option<NodeEvent> {
        match self {
            Self::Frames(node) => node.poll_event(),
            Self::Inline(dealer) => dealer.poll_event(),
            Self::Thread { events, .. } => events.pop_front(),
        }
    }

    pub fn begin_events(&mut self) {
        if let Self::Thread { node, events, .. } = self {
            node.take_events(events);
        }
    }

    /// What is to be watched for reading; none if the owner carries the frames.
    pub fn descriptor(&self) -> Option<RawFd> {
        match self {
            Self::Frames(_) => None,
            Self::Inline(dealer) => Some(dealer.as_fd().as_raw_fd()),
            Self::Thread { node, .. } => Some(node.as_fd().as_raw_fd()),
        }
    }

    /// Reads what is there and does what is due, where no thread does it.
    pub fn turn(&mut self) {
        if let Self::Inline(dealer) = self {
            dealer.turn_now();
        }
    }

    pub fn flush(&mut self) {
        match self {
            Self::Frames(_) => {}
            Self::Inline(dealer) => {
                dealer.refresh_now();
                dealer.flush();
            }
            Self::Thread { node, .. } => node.flush(),
        }
    }

    pub fn next_timeout(&self) -> Option<u64> {
        match self {
            Self::Frames(node) => node.poll_timeout(),
            Self::Inline(dealer) => dealer.poll_timeout(),
            Self::Thread { .. } => None,
        }
    }

    pub fn key_trouble(&self) -> String {
        match self {
            Self::Frames(_) => String::new(),
            Self::Inline(dealer) => dealer.key_trouble().to_owned(),
            Self::Thread { node, .. } => node.key_trouble(),
        }
    }

    /// The keys of the next connection of a native socket.
    pub fn set_security(&mut self, security: Security) {
        match self {
            Self::Frames(_) => {}
            Self::Inline(dealer) => dealer.set_security(security),
            Self::Thread { node, .. } => node.set_security(security),
        }
    }

    /// Whether all that was sent is with the kernel.
    pub fn is_flushed(&self) -> bool {
        match self {
            Self::Frames(node) => !node.has_unsent(),
            Self::Inline(dealer) => dealer.is_flushed(),
            Self::Thread { node, .. } => node.is_flushed(),
        }
    }

    /// No further connection; the one there is gets closed.
    pub fn end(&mut self) {
        match self {
            Self::Frames(node) => node.handle_end(),
            Self::Inline(dealer) => dealer.close(),
            Self::Thread { node, .. } => node.stop(),
        }
    }
}
