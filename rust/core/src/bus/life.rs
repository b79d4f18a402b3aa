//! When a part of a frame is a sign of life (PROTOCOL.md section 4): for drivers, who see bytes before the core sees frames.

use crate::limits::LIFE_BYTES;

/// What was read of one connection since its last sign of life.
#[derive(Debug, Default)]
pub struct Life {
    unheard_bytes: usize,
}

impl Life {
    /// So many bytes were read, the last of a frame among them or not: whether the core is to be told of progress.
    pub const fn read(&mut self, bytes: usize, frame: bool) -> bool {
        self.unheard_bytes = if frame { 0 } else { self.unheard_bytes + bytes };
        let enough = self.unheard_bytes >= LIFE_BYTES;
        if enough {
            self.unheard_bytes = 0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kilobyte_is_a_sign_of_life_and_a_frame_is_one_by_itself() {
        let mut life = Life::default();
        assert!(!life.read(LIFE_BYTES - 1, false));
        assert!(life.read(1, false) && !life.read(1, false));
        assert!(!life.read(LIFE_BYTES, true) && !life.read(LIFE_BYTES - 1, false));
        assert!(life.read(1, false));
    }
}
