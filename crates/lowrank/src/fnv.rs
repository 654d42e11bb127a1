//! The hash FNV-1a: a fingerprint that is the same everywhere, and no secret.

/// A hash that goes on.
pub(crate) struct Fnv(pub u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.add_word(u64::from(byte));
        }
    }

    /// Adds a text, told apart from those beside it.
    pub fn add_text(&mut self, text: &str) {
        self.add_word(text.len() as u64);
        self.add(text.as_bytes());
    }

    /// Adds a number, taken as one byte: faster, and as good where only differences count.
    pub fn add_word(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01b3);
    }
}
