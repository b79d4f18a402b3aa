//! The log of batches that are not in SQLite's file yet: one record a batch, written and synced before it is confirmed.
//!
//! A record begins at a multiple of [`LOG_ALIGN`]: magic, length of the body, salt, number, time, whether records are
//! synced, checksum; then the body. It counts if its salt is the one in the database and its number is the next one. A commit
//! of the database changes the salt, which nobody can guess: so what stands in the file from before is void, and no
//! payload can be made to look like a record.
//!
//! A record is written only when the one before it is synced. So a crash tears the last one at most, and a whole record of this salt behind
//! one that can't be read means that the disk has changed what was safe.

use crate::limits::LOG_STEP_BYTES;
use crate::{Failure, Steps};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub use crate::limits::LOG_ALIGN;

/// What a record begins with.
pub const MAGIC: u32 = 0x7a67_4231;
/// Bytes before the body.
pub const HEAD_BYTES: usize = 40;
static ZEROS: [u8; 65_536] = [0; 65_536];

/// A record that counts.
#[derive(Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Unix ms at which the batch was run.
    pub unix_ms: u64,
    /// Its operations, encoded.
    pub body: &'a [u8],
}

/// A log as it is read at the start.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found<'a> {
    /// In order.
    pub records: Vec<Record<'a>>,
    /// Where the last one ends.
    pub end: usize,
    /// Records behind the end that were written after it was synced: confirmed, and out of reach.
    pub behind: usize,
}

fn word(data: &[u8], at: usize) -> u32 {
    let bytes = data.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u32::from_le_bytes)
}

fn long(data: &[u8], at: usize) -> u64 {
    let bytes = data.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
}

const fn padded(bytes: usize) -> usize {
    bytes.div_ceil(LOG_ALIGN) * LOG_ALIGN
}

struct Head {
    length: usize,
    number: u64,
    unix_ms: u64,
    synced: bool,
}

/// A whole record of this salt that begins here.
fn record_at(data: &[u8], at: usize, salt: u64) -> Option<Head> {
    let record = data.get(at..)?;
    if record.len() < HEAD_BYTES || word(record, 0) != MAGIC || long(record, 8) != salt {
        return None;
    }
    let length = word(record, 4) as usize;
    let body = record.get(HEAD_BYTES..)?.get(..length)?;
    let mut sum = crc32fast::Hasher::new();
    sum.update(&record[..HEAD_BYTES - 4]);
    sum.update(body);
    (sum.finalize() == word(record, HEAD_BYTES - 4)).then(|| Head {
        length,
        number: u64::from(word(record, 16)),
        unix_ms: long(record, 20),
        synced: word(record, 28) != 0,
    })
}

/// Looks through the bytes of a log; any bytes give an answer.
pub fn look_through(data: &[u8], salt: u64) -> Found<'_> {
    let mut found = Found::default();
    while let Some(head) = record_at(data, found.end, salt) {
        if head.number != found.records.len() as u64 + 1 {
            break;
        }
        let begin = found.end + HEAD_BYTES;
        found.records.push(Record {
            unix_ms: head.unix_ms,
            body: &data[begin..begin + head.length],
        });
        found.end = padded(begin + head.length);
    }
    let next = found.records.len() as u64 + 1;
    let behind = (found.end..data.len()).step_by(LOG_ALIGN);
    found.behind = behind
        .filter_map(|at| record_at(data, at, salt))
        .filter(|head| head.synced && head.number >= next)
        .count();
    found
}

/// The file, being written.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    salt: u64,
    number: u32,
    at: u64,
    length: u64,
    sync: bool,
    steps: Steps,
    buffer: Vec<u8>,
}

impl Journal {
    /// The bytes of the file; none if it is not there.
    pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
        let mut data = Vec::new();
        match File::open(path) {
            Ok(mut file) => file.read_to_end(&mut data)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(data))
    }

    /// Opens the file, or makes it; what is in it stays until [`Self::begin`].
    pub fn open(path: &Path, sync: bool, steps: Steps) -> Result<Self, Failure> {
        steps.reach("log open")?;
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        let file = options.open(path)?;
        let length = file.metadata()?.len();
        if sync && length == 0 {
            file.sync_all()?;
            if let Some(folder) = path.parent() {
                // The name must outlive a loss of power as well.
                let folder = if folder.as_os_str().is_empty() {
                    Path::new(".")
                } else {
                    folder
                };
                File::open(folder)?.sync_all()?;
            }
        }
        let (path, buffer) = (path.to_owned(), Vec::new());
        Ok(Self {
            path,
            file,
            salt: 0,
            number: 0,
            at: 0,
            length,
            sync,
            steps,
            buffer,
        })
    }

    /// The database has this salt now: the log is empty.
    pub const fn begin(&mut self, salt: u64) {
        (self.salt, self.number, self.at) = (salt, 0, 0);
    }

    /// How much is in it.
    pub const fn bytes(&self) -> u64 {
        self.at
    }

    /// How much the record at hand takes.
    pub const fn record_bytes(&self) -> u64 {
        padded(self.buffer.len()) as u64
    }

    /// A record's beginning, to which the body is added.
    pub fn record(&mut self) -> &mut Vec<u8> {
        self.buffer.clear();
        self.buffer.resize(HEAD_BYTES, 0);
        &mut self.buffer
    }

    /// Writes the record and syncs it. After an error nobody knows whether it is there.
    pub fn append(&mut self, unix_ms: u64) -> Result<(), Failure> {
        let length = u32::try_from(self.buffer.len() - HEAD_BYTES)
            .map_err(|_| Failure::Unavailable("a batch over 4 GiB".into()))?;
        self.number += 1;
        let head = &mut self.buffer[..HEAD_BYTES];
        head[..4].copy_from_slice(&MAGIC.to_le_bytes());
        head[4..8].copy_from_slice(&length.to_le_bytes());
        head[8..16].copy_from_slice(&self.salt.to_le_bytes());
        head[16..20].copy_from_slice(&self.number.to_le_bytes());
        head[20..28].copy_from_slice(&unix_ms.to_le_bytes());
        head[28..32].copy_from_slice(&u32::from(self.sync).to_le_bytes());
        let mut sum = crc32fast::Hasher::new();
        sum.update(&self.buffer[..HEAD_BYTES - 4]);
        sum.update(&self.buffer[HEAD_BYTES..]);
        self.buffer[HEAD_BYTES - 4..HEAD_BYTES].copy_from_slice(&sum.finalize().to_le_bytes());
        let used = self.buffer.len();
        self.buffer.resize(padded(used), 0);
        self.write(used).map_err(|error| match error {
            Failure::Unavailable(reason) => {
                Failure::Unavailable(format!("{}: {reason}", self.path.display()))
            }
            other => other,
        })
    }

    fn write(&mut self, used: usize) -> Result<(), Failure> {
        let end = self.at + self.buffer.len() as u64;
        while self.length < end.next_multiple_of(LOG_STEP_BYTES) {
            self.steps.reach("log grows")?;
            self.file.write_all_at(&ZEROS, self.length)?;
            self.length += ZEROS.len() as u64;
        }
        self.steps.reach("log write")?;
        if self.steps.watched() {
            // A process may end in the middle of a write.
            let (first, second) = self.buffer.split_at(used / 2);
            self.file.write_all_at(first, self.at)?;
            self.steps.reach("log half")?;
            self.file
                .write_all_at(second, self.at + first.len() as u64)?;
        } else {
            self.file.write_all_at(&self.buffer, self.at)?;
        }
        self.steps.reach("log sync")?;
        if self.sync {
            self.file.sync_data()?;
        }
        self.at = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SALT: u64 = 0x0123_4567_89ab_cdef;

    fn log(bodies: &[usize], sync: bool) -> Vec<u8> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("zmqgame-log-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut journal = Journal::open(&path, sync, Steps::default()).unwrap();
        journal.begin(SALT);
        for (index, &bytes) in bodies.iter().enumerate() {
            journal.record().resize(HEAD_BYTES + bytes, index as u8);
            journal.append(index as u64).unwrap();
        }
        let mut data = Journal::read(&path).unwrap().unwrap();
        data.truncate(usize::try_from(journal.bytes()).unwrap());
        std::fs::remove_file(&path).unwrap();
        data
    }

    #[test]
    fn what_is_written_is_found() {
        let data = log(&[1, 472, 473, 5_000, 0], true);
        let found = look_through(&data, SALT);
        assert_eq!((found.end, found.behind), (data.len(), 0));
        let found: Vec<_> = found
            .records
            .iter()
            .map(|r| (r.unix_ms, r.body.len()))
            .collect();
        assert_eq!(found, [(0, 1), (1, 472), (2, 473), (3, 5_000), (4, 0)]);
        assert_eq!(look_through(&data, SALT + 1), Found::default());
    }

    #[test]
    fn a_torn_last_record_is_no_damage() {
        let data = log(&[700, 3_000], true);
        for cut in (1_024..data.len()).step_by(100) {
            let found = look_through(&data[..cut], SALT);
            assert_eq!((found.end, found.behind), (1_024, 0));
        }
    }

    #[test]
    fn a_turned_bit_before_others_shows_what_it_hides() {
        for sync in [true, false] {
            let data = log(&[700, 3_000, 10, 10], sync);
            // of the second record; its padding is of no importance
            for at in (1_024..1_024 + HEAD_BYTES + 3_000).step_by(7) {
                let mut turned = data.clone();
                turned[at] ^= 4;
                let found = look_through(&turned, SALT);
                assert_eq!(found.end, 1_024);
                assert_eq!(found.behind, if sync { 2 } else { 0 }, "{at}");
            }
        }
    }

    #[test]
    fn what_an_earlier_log_has_left_counts_for_nothing() {
        let mut data = log(&[700, 3_000, 10, 10], true);
        let other = log(&[100], true);
        data[..other.len()].copy_from_slice(&other);
        // the same salt would be damage; another one is not
        assert_eq!(look_through(&data, SALT).records.len(), 1);
        data[8] ^= 1;
        assert_eq!(look_through(&data, SALT ^ 1), Found::default());
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(tail in proptest::collection::vec(any::<u8>(), 0..2_000), cut in 0..1_024_usize) {
            let mut data = log(&[10, 20], false);
            data.truncate(cut);
            data.extend(&tail);
            let found = look_through(&data, SALT);
            prop_assert!(found.end <= data.len() + LOG_ALIGN);
        }
    }
}
