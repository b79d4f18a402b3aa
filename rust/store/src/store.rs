//! The store: opened, a batch run, let go.

use crate::batch::{Effect, Looked, Run, opened};
use crate::database::Database;
use crate::journal::{Journal, look_through};
use crate::limits::LOG_BYTES;
use crate::record::{decode, encode};
use crate::{Failure, Steps};
use std::path::{Path, PathBuf};
use zmqgame_core::bus::store::{StoreDone, StoreOp};

/// How a store is to be kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// The database; its log is beside it.
    pub path: PathBuf,
    /// What is confirmed survives a loss of power, not only the process.
    pub power_loss: bool,
    /// Messages and what a row costs, in all.
    pub max_bytes: i64,
    /// Messages of a player.
    pub player_messages: u64,
    /// Payload of a player's messages.
    pub player_bytes: u64,
    /// For tests.
    pub steps: Steps,
}

struct Live {
    database: Database,
    journal: Journal,
    /// The claim in the file is ours.
    checked: bool,
}

/// A mailbox in SQLite. The caller holds a lock that keeps other processes out.
pub struct Store {
    options: Options,
    log: PathBuf,
    live: Option<Live>,
    looked: Looked,
    claimed: Option<u32>,
    /// Claimed in a transaction whose outcome may be unknown.
    attempted: u32,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.options.path.display())
    }
}

impl Store {
    /// Opens the files, and runs again what the log has.
    ///
    /// # Errors
    /// They can't be read or written, or confirmed batches of the log can't be read.
    pub fn open(options: Options) -> Result<Self, Failure> {
        let mut log = options.path.clone().into_os_string();
        log.push("-batches");
        let mut store = Self {
            options,
            log: log.into(),
            live: None,
            looked: Looked::default(),
            claimed: None,
            attempted: 0,
        };
        store.whole(|store| store.live().map(|_| ()))?;
        Ok(store)
    }

    /// The highest hub epoch that was ever claimed.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn highest_epoch(&mut self) -> Result<u32, Failure> {
        self.whole(|store| Ok(epoch(store.live()?.database.meta("hub_epoch")?)))
    }

    /// Runs a batch in order; what it changed is durable when this returns.
    ///
    /// # Errors
    /// Nothing of it may be confirmed; it may be in all the same, and is run again as it is.
    pub fn run(&mut self, ops: &[StoreOp], now_ms: u64) -> Result<Vec<StoreDone>, Failure> {
        let claimed = self.claimed;
        let result = self.whole(|store| store.batch(ops, now_ms));
        if result.is_err() {
            self.claimed = claimed;
        }
        result
    }

    /// Moves the log into the database, while nobody waits.
    ///
    /// # Errors
    /// As for a batch; nothing that was confirmed is lost.
    pub fn idle(&mut self) -> Result<(), Failure> {
        self.whole(|store| {
            if let Some(live) = &mut store.live
                && live.database.changed
            {
                commit(live)?;
                live.database.shrink()?;
            }
            Ok(())
        })
    }

    /// Moves the log into the database and closes both; the next call opens them again.
    ///
    /// # Errors
    /// As for a batch; nothing that was confirmed is lost.
    pub fn let_go(&mut self) -> Result<(), Failure> {
        let Some(mut live) = self.live.take() else {
            return Ok(());
        };
        // No salt: the file of the log is not needed then.
        live.database.commit(0)?;
        live.database.end()
    }

    /// After an error the outcome is unknown: all is read again from the files.
    fn whole<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let result = work(self);
        if result.is_err() {
            self.live = None; // SQLite rolls back what was not committed
        }
        result
    }

    fn live(&mut self) -> Result<&mut Live, Failure> {
        if self.live.is_none() {
            self.live = Some(connect(&self.options, &self.log)?);
            self.looked = Looked::default();
        }
        self.live
            .as_mut()
            .ok_or_else(|| Failure::Unavailable("closed".into()))
    }

    fn batch(&mut self, ops: &[StoreOp], now_ms: u64) -> Result<Vec<StoreDone>, Failure> {
        self.live()?;
        let Some(live) = &mut self.live else {
            return Err(Failure::Unavailable("closed".into()));
        };
        live.database.begin()?;
        if let Some(claimed) = self.claimed.filter(|_| !live.checked) {
            let found = epoch(live.database.meta("hub_epoch")?);
            if found != claimed {
                return Err(replaced(found, claimed));
            }
        }
        live.checked = true; // nobody else has the file from here on
        live.database.refused.clear();
        let mut run = Run {
            options: &self.options,
            now_ms,
            looked: &mut self.looked,
        };
        let (mut done, mut commits, mut recorded) = (Vec::with_capacity(ops.len()), false, false);
        let record = live.journal.record();
        for op in ops {
            if let StoreOp::Open { hub_epoch, unix_ms } = *op {
                commits = true;
                claim(
                    &live.database,
                    &mut self.claimed,
                    &mut self.attempted,
                    hub_epoch,
                )?;
                done.push(opened(&live.database, hub_epoch, unix_ms)?);
                continue;
            }
            let (answer, effect) = run.operation(&mut live.database, op)?;
            done.push(answer);
            match effect {
                Effect::None => {}
                Effect::Logged => recorded |= encode(record, op),
                Effect::Commit => commits = true,
            }
        }
        live.database.changed |= commits | recorded;
        let full = live.journal.bytes() + live.journal.record_bytes() > LOG_BYTES;
        if commits || (recorded && full) {
            commit(live)?;
        } else if recorded {
            live.journal.append(now_ms)?;
        }
        Ok(done)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // What is in the log is run again at the next start.
        let _ = self.let_go();
    }
}

fn epoch(value: i64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn replaced(found: u32, ours: u32) -> Failure {
    Failure::Replaced(format!("was claimed by hub epoch {found}, this is {ours}"))
}

fn claim(
    database: &Database,
    claimed: &mut Option<u32>,
    attempted: &mut u32,
    hub_epoch: u32,
) -> Result<(), Failure> {
    if claimed.is_some() {
        return Ok(());
    }
    let found = epoch(database.meta("hub_epoch")?);
    if found >= hub_epoch && found != *attempted {
        return Err(replaced(found, hub_epoch));
    }
    database.set_meta("hub_epoch", i64::from(hub_epoch))?;
    (*claimed, *attempted) = (Some(hub_epoch), hub_epoch);
    Ok(())
}

fn commit(live: &mut Live) -> Result<(), Failure> {
    let mut salt = [0; 8];
    getrandom::fill(&mut salt).map_err(|error| Failure::Unavailable(error.to_string()))?;
    let salt = u64::from_le_bytes(salt) | 1; // 0: no log
    live.database.commit(salt)?;
    live.journal.begin(salt);
    Ok(())
}

fn connect(options: &Options, log: &Path) -> Result<Live, Failure> {
    let synchronous = if options.power_loss { "full" } else { "normal" };
    let mut database = Database::open(&options.path, synchronous, options.steps.clone())?;
    let salt = database.meta("log")?.cast_unsigned();
    let data = Journal::read(log)?;
    if salt != 0 {
        let Some(data) = data else {
            return Err(Failure::Damaged {
                reason: format!(
                    "its log {} is missing: confirmed messages may be in it",
                    log.display()
                ),
                hint: format!("restore it; to go on without them: touch {}", log.display()),
            });
        };
        run_again(options, log, &mut database, &data, salt)?;
    }
    let journal = Journal::open(log, options.power_loss, options.steps.clone())?;
    let mut live = Live {
        database,
        journal,
        checked: false,
    };
    commit(&mut live)?;
    Ok(live)
}

fn run_again(
    options: &Options,
    log: &Path,
    database: &mut Database,
    data: &[u8],
    salt: u64,
) -> Result<(), Failure> {
    let found = look_through(data, salt);
    if found.behind > 0 {
        let (end, path) = (found.end, log.display());
        return Err(Failure::Damaged {
            reason: format!(
                "its log is damaged at byte {end}, and at least {} confirmed batches behind that can't be read",
                found.behind
            ),
            hint: format!(
                "look at the disk, restore a backup; to go on without them: truncate -s {end} {path}"
            ),
        });
    }
    for record in found.records {
        let ops = decode(record.body).ok_or_else(|| Failure::Damaged {
            reason: "its log has a record that this version can't read".into(),
            hint: "start the version that wrote it".into(),
        })?;
        let now_ms = record.unix_ms;
        let mut run = Run {
            options,
            now_ms,
            looked: &mut Looked::default(),
        };
        database.refused.clear();
        for op in &ops {
            run.operation(database, op)?;
        }
    }
    Ok(())
}
