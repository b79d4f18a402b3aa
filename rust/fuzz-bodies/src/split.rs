//! How inputs are cut: so that libFuzzer finds pieces by changing single bytes, and people can read a case.

/// A stream and how it arrives: `count, sizes ..., stream`. Sizes repeat; a size of 0 is 256.
pub struct Stream<'a> {
    sizes: &'a [u8],
    /// All of it.
    pub bytes: &'a [u8],
}

impl<'a> Stream<'a> {
    /// Cuts an input.
    pub fn new(data: &'a [u8]) -> Self {
        let Some((&count, rest)) = data.split_first() else {
            return Self {
                sizes: &[],
                bytes: &[],
            };
        };
        let (sizes, bytes) = rest.split_at(rest.len().min(usize::from(count % 16)));
        Self { sizes, bytes }
    }

    /// The pieces in which it arrives; one if no sizes are named.
    pub fn pieces(&self) -> Vec<&'a [u8]> {
        let (mut pieces, mut rest) = (Vec::new(), self.bytes);
        for &size in self.sizes.iter().cycle() {
            if rest.is_empty() {
                return pieces;
            }
            let size = if size == 0 { 256 } else { usize::from(size) };
            let (piece, after) = rest.split_at(size.min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        vec![rest]
    }
}

/// A seed: a stream with its sizes.
pub fn stream(sizes: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut seed = vec![sizes.len() as u8];
    seed.extend_from_slice(sizes);
    seed.extend_from_slice(bytes);
    seed
}

/// Steps: `what u8, length u16 little endian, bytes`; the last one may be cut off.
pub struct Steps<'a>(pub &'a [u8]);

impl<'a> Iterator for Steps<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&[what, low, high], rest) = self.0.split_first_chunk::<3>()?;
        let length = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
        let (bytes, rest) = rest.split_at(length);
        self.0 = rest;
        Some((what, bytes))
    }
}

/// Appends one step to a seed.
pub fn push_step(seed: &mut Vec<u8>, what: u8, bytes: &[u8]) {
    seed.push(what);
    seed.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
    seed.extend_from_slice(bytes);
}
