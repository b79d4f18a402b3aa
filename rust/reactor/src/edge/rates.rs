//! How much one connection may send in a time.

use zmqgame_core::edge::rate::Bucket;

use super::config::EdgeConfig;

/// How much the client may still send.
pub(super) struct Rates {
    packets: Option<Bucket>,
    bytes: Option<Bucket>,
}

impl Rates {
    pub(super) fn new(config: &EdgeConfig, now_ms: u64) -> Option<Box<Self>> {
        let bucket = |per_s: u64, burst: u64| {
            let burst = if burst == 0 { per_s } else { burst };
            (per_s > 0).then(|| Bucket::new(per_s, burst, now_ms))
        };
        let packets = bucket(config.packets_per_s, config.packets_burst);
        let bytes = bucket(config.bytes_per_s, config.bytes_burst);
        let any = packets.is_some() || bytes.is_some();
        any.then(|| Box::new(Self { packets, bytes }))
    }

    /// Whether a datagram may still be taken: one can't wait, as a stream can.
    pub(super) fn take_datagram(&mut self, now_ms: u64, bytes: u64) -> bool {
        let ready = |bucket: &mut Option<Bucket>| {
            let bucket = bucket.as_mut();
            bucket.is_none_or(|bucket| bucket.ready_at_ms(now_ms).is_none())
        };
        let within = ready(&mut self.packets) && ready(&mut self.bytes);
        if within {
            self.spend(now_ms, 1, bytes);
        }
        within
    }

    /// When reading may go on; `None`: at once.
    pub(super) fn spend(&mut self, now_ms: u64, packets: u64, bytes: u64) -> Option<u64> {
        let one = |bucket: &mut Option<Bucket>, count: u64| {
            let bucket = bucket.as_mut()?;
            bucket.spend(now_ms, count);
            bucket.ready_at_ms(now_ms)
        };
        one(&mut self.packets, packets).max(one(&mut self.bytes, bytes))
    }
}
