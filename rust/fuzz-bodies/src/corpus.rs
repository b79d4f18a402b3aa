//! What fuzzing has learned, in one file a target: inputs that reached something new, the shortest ones. Length as
//! u32 little endian, bytes, and so on.

use std::io;
use std::path::{Path, PathBuf};

/// A target's inputs together: enough to reach most of what a long run has reached, little enough for a repository.
const KEPT_BYTES: usize = 24 << 10;

fn file(target: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/fuzz");
    Path::new(folder).join(format!("{target}.corpus"))
}

/// The inputs that are kept of a target; none if there is no file.
#[must_use]
pub fn kept(target: &str) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(file(target)).unwrap_or_default();
    let (mut inputs, mut rest) = (Vec::new(), &bytes[..]);
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = (u32::from_le_bytes(*length) as usize).min(after.len());
        let (input, after) = after.split_at(length);
        inputs.push(input.to_vec());
        rest = after;
    }
    inputs
}

/// Keeps the shortest inputs of a folder; how many.
///
/// # Errors
/// The folder can't be read, or the file not written.
pub fn keep(target: &str, folder: &Path) -> io::Result<usize> {
    let mut inputs = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        inputs.push(std::fs::read(entry?.path())?);
    }
    inputs.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    inputs.dedup();
    let (mut bytes, mut count) = (Vec::new(), 0);
    for input in inputs {
        if bytes.len() + 4 + input.len() > KEPT_BYTES {
            break;
        }
        bytes.extend_from_slice(&(input.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&input);
        count += 1;
    }
    std::fs::write(file(target), bytes)?;
    Ok(count)
}
