//! Changes of files, the same ones for the same seed.

/// Numbers that arithmetic goes wrong with.
const NUMBERS: [u64; 12] = [
    0,
    1,
    7,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_fffe,
    0xffff_ffff_ffff_ffff,
];
/// The same and others as texts have them.
const WORDS: [&str; 22] = [
    "0",
    "-1",
    "1",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "1e999",
    "-0.0",
    "1e-320",
    "NaN",
    "null",
    "true",
    "\"\"",
    "[]",
    "{}",
    "[[]]",
    "\u{0}",
    "\u{1f600}",
    "\n",
    "(a+)+$",
    "../../etc/passwd",
];
/// What nests in texts, and in pickles.
const OPENING: [&[u8]; 7] = [b"[", b"{\"a\":", b"(", b"{{", b"{% if 1 %}", b"(l", b"}"];
/// Headers and directories, where most changes mean something, are within so many bytes of an end.
const NEAR: usize = 1024;

/// Splitmix64.
pub struct Mutator(u64);

impl Mutator {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is above 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// A place in a file, its end included.
    fn place(&mut self, bytes: &[u8]) -> usize {
        let length = bytes.len();
        match self.below(4) {
            0 => self.below(length + 1),
            1 => length - self.below(length.min(NEAR) + 1),
            _ => self.below(length.min(NEAR) + 1),
        }
    }

    /// A piece of a file.
    fn piece(&mut self, bytes: &[u8]) -> std::ops::Range<usize> {
        let start = self.place(bytes);
        let longest = if self.below(4) == 0 { bytes.len() } else { 16 };
        start..start + self.below(longest.min(bytes.len() - start) + 1)
    }

    /// One of the seeds, changed.
    pub fn mutated(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = self.pick(seeds).clone();
        for _ in 0..=self.below(4) {
            self.change(&mut bytes, seeds);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let place = self.place(bytes);
        let inside = place < bytes.len();
        match self.below(12) {
            0 if inside => bytes[place] ^= 1 << self.below(8),
            1 if inside => bytes[place] = self.next() as u8,
            2 => bytes.truncate(place),
            3 => {
                let piece = self.piece(bytes);
                bytes.drain(piece);
            }
            4 => {
                let piece = self.piece(bytes);
                let copy = bytes[piece].to_vec();
                bytes.splice(place..place, copy);
            }
            5 => {
                let other = self.pick(seeds);
                let piece = self.piece(other);
                let replaced = self.piece(bytes);
                bytes.splice(replaced, other[piece].iter().copied());
            }
            6 | 7 => {
                let number = *self.pick(&NUMBERS);
                let size = 1 << self.below(4);
                let mut length = number.to_le_bytes()[..size].to_vec();
                if self.below(3) == 0 {
                    length.reverse();
                }
                let end = (place + size).min(bytes.len());
                bytes.splice(place..end, length);
            }
            8 | 9 => self.replace_number(bytes, place),
            10 => {
                let word = self.pick(&WORDS).as_bytes();
                bytes.splice(place..place, word.iter().copied());
            }
            _ => {
                let depth = if self.below(16) == 0 { 20_000 } else { 1 + self.below(200) };
                let opening = self.pick(&OPENING).repeat(depth);
                bytes.splice(place..place, opening);
            }
        }
    }

    /// Puts another word in the place of the number that comes next.
    fn replace_number(&mut self, bytes: &mut Vec<u8>, place: usize) {
        let Some(start) = bytes[place..].iter().position(u8::is_ascii_digit) else { return };
        let start = place + start;
        let length = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let word = self.pick(&WORDS).as_bytes();
        bytes.splice(start..start + length, word.iter().copied());
    }
}
