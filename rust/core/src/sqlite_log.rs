//! What SQLite's write-ahead log holds behind its last readable transaction (sqlite.org/fileformat2.html#walformat).
//!
//! SQLite takes the first frame with a wrong checksum for the end of the log, and says nothing. After a crash that is
//! right: what was being written is void. But a commit that was confirmed was synced before the next one began, so a
//! crash damages one transaction at most. Two or more that stand behind the end and continue each other mean that the
//! disk has changed what was safe, and that confirmed messages would be gone without a word.
//!
//! Each frame's checksum goes on from that of the frame before. So behind a changed bit the frames still fit the
//! checksums that are written there, while what an earlier crash has left does not fit what was written over it: that
//! is one transaction a piece, however many crashes there were.
//!
//! Not told: damage to the last two or three transactions, which looks like a torn one, and to the header, which may
//! have been in the middle of being written over a log that had been moved into the database.

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
const BIG_ENDIAN_SUMS: u32 = 0x377f_0683;
const LITTLE_ENDIAN_SUMS: u32 = 0x377f_0682;
/// SQLite's pages are powers of two between these.
const PAGE_BYTES: std::ops::RangeInclusive<usize> = 512..=65_536;

/// A log, as it would be read at the next start.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct LogEnd {
    /// Behind the last whole transaction; 0 for what is no log.
    pub readable_bytes: usize,
    /// How many transactions behind it continue each other, at most.
    pub commits_behind: usize,
}

/// SQLite's running checksum, in the byte order that the log's magic number says.
#[derive(Clone, Copy)]
struct Sums {
    big_endian: bool,
    sums: (u32, u32),
}

impl Sums {
    fn add(&mut self, data: &[u8]) {
        let word = |bytes: &[u8]| {
            let bytes = bytes.try_into().unwrap_or_default();
            if self.big_endian {
                u32::from_be_bytes(bytes)
            } else {
                u32::from_le_bytes(bytes)
            }
        };
        let (mut first, mut second) = self.sums;
        for pair in data.chunks_exact(8) {
            first = first.wrapping_add(word(&pair[..4])).wrapping_add(second);
            second = second.wrapping_add(word(&pair[4..])).wrapping_add(first);
        }
        self.sums = (first, second);
    }
}

fn word_at(data: &[u8], at: usize) -> u32 {
    data.get(at..at + 4)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u32::from_be_bytes)
}

/// Looks through the bytes of a `-wal` file; any bytes give an answer.
#[must_use]
pub fn log_end(data: &[u8]) -> LogEnd {
    let magic = word_at(data, 0);
    let page_bytes = word_at(data, 8) as usize;
    let known = [BIG_ENDIAN_SUMS, LITTLE_ENDIAN_SUMS].contains(&magic);
    if data.len() < HEADER_BYTES || !known || !PAGE_BYTES.contains(&page_bytes) {
        return LogEnd::default();
    }
    let mut sums = Sums {
        big_endian: magic == BIG_ENDIAN_SUMS,
        sums: (0, 0),
    };
    sums.add(&data[..24]);
    let mut end = LogEnd {
        readable_bytes: HEADER_BYTES,
        commits_behind: 0,
    };
    let mut whole = sums.sums == (word_at(data, 24), word_at(data, 28));
    let mut run = 0;
    let size = FRAME_HEADER_BYTES + page_bytes;
    for (index, frame) in data[HEADER_BYTES..].chunks_exact(size).enumerate() {
        let stored = (word_at(frame, 16), word_at(frame, 20));
        sums.add(&frame[..8]);
        sums.add(&frame[FRAME_HEADER_BYTES..]);
        let fits = sums.sums == stored && frame[8..16] == data[16..24];
        whole &= fits;
        if !fits {
            run = 0;
        } else if word_at(frame, 4) != 0 {
            if whole {
                end.readable_bytes = HEADER_BYTES + (index + 1) * size;
            } else {
                run += 1;
                end.commits_behind = end.commits_behind.max(run);
            }
        }
        sums.sums = stored;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: usize = 512;

    /// A log of transactions of so many frames each, made by the format's description.
    fn log(transactions: &[usize], big_endian: bool) -> Vec<u8> {
        let magic = if big_endian {
            BIG_ENDIAN_SUMS
        } else {
            LITTLE_ENDIAN_SUMS
        };
        let mut data = Vec::new();
        for word in [magic, 3_007_000, PAGE as u32, 1, 0xdead, 0xbeef] {
            data.extend(word.to_be_bytes());
        }
        let mut sums = Sums {
            big_endian,
            sums: (0, 0),
        };
        let put = |data: &mut Vec<u8>, sums: &Sums| {
            data.extend(sums.sums.0.to_be_bytes());
            data.extend(sums.sums.1.to_be_bytes());
        };
        sums.add(&data);
        put(&mut data, &sums);
        for (number, frames) in transactions.iter().enumerate() {
            for frame in 0..*frames {
                let mut head = (frame as u32 + 1).to_be_bytes().to_vec();
                head.extend(u32::from(frame + 1 == *frames).to_be_bytes());
                let page = [number as u8 ^ frame as u8; PAGE];
                sums.add(&head);
                sums.add(&page);
                data.extend(head);
                data.extend([0, 0, 0xde, 0xad, 0, 0, 0xbe, 0xef]);
                put(&mut data, &sums);
                data.extend(page);
            }
        }
        data
    }

    #[test]
    fn a_whole_log_ends_where_it_ends() {
        for big_endian in [false, true] {
            let data = log(&[1, 3, 2], big_endian);
            let whole = LogEnd {
                readable_bytes: data.len(),
                commits_behind: 0,
            };
            assert_eq!(log_end(&data), whole);
        }
    }

    #[test]
    fn a_torn_last_transaction_is_no_damage() {
        let data = log(&[1, 3, 2], false);
        let before = log(&[1, 3], false).len();
        for cut in before..data.len() {
            assert_eq!(log_end(&data[..cut]).readable_bytes, before);
            assert_eq!(log_end(&data[..cut]).commits_behind, 0);
        }
        let mut turned = data.clone();
        turned[before + 100] ^= 1;
        assert_eq!(log_end(&turned).readable_bytes, before);
        assert_eq!(log_end(&turned).commits_behind, 1);
    }

    #[test]
    fn a_turned_bit_before_others_shows_what_it_hides() {
        let data = log(&[1, 3, 2, 1, 2], false);
        // page number, commit, salt, checksum, page; of the first frame and of the second
        for at in [33, 37, 42, 50, 60, 500, 570, 577, 582, 590, 700] {
            let mut turned = data.clone();
            turned[at] ^= 4;
            assert!(log_end(&turned).commits_behind >= 3, "{at}");
        }
    }

    /// Two crashes, each in the middle of a transaction at the same place, the second over what the first has left.
    #[test]
    fn what_several_crashes_have_left_is_no_damage() {
        let before = log(&[2, 1], false).len();
        let size = FRAME_HEADER_BYTES + PAGE;
        for torn in 0..4 {
            let mut data = log(&[2, 1, 4], false);
            data[before + torn * size + 200] ^= 1;
            let mut second = log(&[2, 1, 2], false);
            second[before + 300] ^= 1;
            second[before + 400] ^= 255; // other pages than the first time
            let end = second.len() - torn.min(1) * 100;
            data[before..end].copy_from_slice(&second[before..end]);
            let found = log_end(&data);
            assert_eq!(found.readable_bytes, before);
            assert!(found.commits_behind <= 1, "{torn}: {found:?}");
        }
    }

    #[test]
    fn what_stands_behind_from_an_older_log_is_no_damage() {
        let mut data = log(&[2, 1], false);
        let end = data.len();
        let mut older = log(&[2, 1], false);
        for frame in older[HEADER_BYTES..].chunks_exact_mut(FRAME_HEADER_BYTES + PAGE) {
            frame[8..16].fill(7);
        }
        data.extend(&older[HEADER_BYTES..]);
        assert_eq!(
            log_end(&data),
            LogEnd {
                readable_bytes: end,
                commits_behind: 0
            }
        );
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(mut data in proptest::collection::vec(any::<u8>(), 0..4_000), real in any::<bool>()) {
            if real {
                let mut start = log(&[2, 1], false);
                start.extend(&data);
                data = start;
            }
            let end = log_end(&data);
            prop_assert!(end.readable_bytes <= data.len());
        }
    }
}
