//! CRC-32C arithmetic: checksums of wholes from checksums of parts.
//!
//! A checksum here is the standard CRC-32C; 3FS's form is its complement ([`wire_form`]). With S(c, n) the checksum `c`
//! advanced over `n` zero bytes, `crc(A|B) = S(crc(A), |B|) ^ crc(B)`, and S is linear over xor. All else follows.

use bytes::Bytes;

use crate::geometry::BLOCK;

/// CRC-32C's polynomial, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Product of two polynomials modulo CRC-32C's, bits reversed: bit 31 is x^0.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 1 << 31;
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
            if a & (bit - 1) == 0 {
                break;
            }
        }
        bit >>= 1;
        b = if b & 1 != 0 { (b >> 1) ^ POLYNOMIAL } else { b >> 1 };
    }
    product
}

/// x^(8 * 2^i) for each i: advancing over 2^i bytes. Enough for 64 MiB and more.
const POWERS: [u32; 32] = {
    let mut powers = [0; 32];
    let mut power = 1 << 30; // x^1
    let mut i = 0;
    while i < 3 {
        power = multiply(power, power);
        i += 1;
    }
    i = 0;
    while i < 32 {
        powers[i] = power;
        power = multiply(power, power);
        i += 1;
    }
    powers
};

/// Advancing over one block, by the four bytes of the checksum.
static BLOCK_SHIFT: [[u32; 256]; 4] = {
    let factor = POWERS[BLOCK.trailing_zeros() as usize];
    let mut tables = [[0; 256]; 4];
    let mut byte = 0;
    while byte < 4 {
        let mut value = 0;
        while value < 256 {
            tables[byte][value] = multiply(factor, (value as u32) << (8 * byte));
            value += 1;
        }
        byte += 1;
    }
    tables
};

/// Advances a checksum over `len` zero bytes.
pub(crate) fn shift(crc: u32, len: usize) -> u32 {
    if len == BLOCK {
        return shift_block(crc);
    }
    let (mut crc, mut left, mut i) = (crc, len, 0);
    while left != 0 {
        if left & 1 != 0 {
            crc = multiply(POWERS[i], crc);
        }
        (left, i) = (left >> 1, i + 1);
    }
    crc
}

fn shift_block(crc: u32) -> u32 {
    let [a, b, c, d] = crc.to_le_bytes().map(usize::from);
    BLOCK_SHIFT[0][a] ^ BLOCK_SHIFT[1][b] ^ BLOCK_SHIFT[2][c] ^ BLOCK_SHIFT[3][d]
}

/// Checksum of two parts that follow each other, the second `len` bytes long.
pub(crate) fn combine(first: u32, second: u32, len: usize) -> u32 {
    shift(first, len) ^ second
}

/// Checksum of `len` zero bytes.
pub(crate) fn zeros(len: usize) -> u32 {
    !shift(!0, len)
}

/// 3FS's form of a checksum, and back.
pub(crate) const fn wire_form(crc: u32) -> u32 {
    !crc
}

/// Checksums of the parts into which block borders cut data at `offset`, in one pass.
pub(crate) fn parts(offset: usize, data: &[Bytes]) -> Parts {
    let total = data.iter().map(Bytes::len).sum();
    let mut parts = Parts { offset, total, crcs: Vec::with_capacity(total / BLOCK + 2), whole: 0 };
    let (mut crc, mut within) = (0, 0);
    let mut room = BLOCK - offset % BLOCK;
    for piece in data {
        let mut rest = &piece[..];
        while !rest.is_empty() {
            let (head, tail) = rest.split_at(rest.len().min(room - within));
            crc = crc32c::crc32c_append(crc, head);
            (within, rest) = (within + head.len(), tail);
            if within == room {
                parts.push(crc, within);
                (crc, within, room) = (0, 0, BLOCK);
            }
        }
    }
    if within > 0 {
        parts.push(crc, within);
    }
    parts
}

/// Checksums of data cut at block borders.
pub(crate) struct Parts {
    offset: usize,
    total: usize,
    /// One per block touched, over the bytes of the data that lie in the block.
    pub(crate) crcs: Vec<u32>,
    /// Over all of the data.
    pub(crate) whole: u32,
}

impl Parts {
    fn push(&mut self, crc: u32, len: usize) {
        self.crcs.push(crc);
        self.whole = combine(self.whole, crc, len);
    }

    /// Bytes of the data in the last block touched.
    pub(crate) fn last_len(&self) -> usize {
        match self.crcs.len() {
            0 | 1 => self.total,
            _ => (self.offset + self.total - 1) % BLOCK + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut x = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn combined_equals_computed() {
        let data = noise(3 * BLOCK + 77);
        let whole = crc32c::crc32c(&data);
        for cut in [0, 1, 2, 100, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, data.len()] {
            let (a, b) = data.split_at(cut);
            assert_eq!(combine(crc32c::crc32c(a), crc32c::crc32c(b), b.len()), whole, "cut at {cut}");
        }
        for len in [0, 1, 7, 4095, 4096, 4097, 1 << 20] {
            assert_eq!(zeros(len), crc32c::crc32c(&vec![0; len]));
        }
        assert_eq!(wire_form(crc32c::crc32c(b"123456789")), 0x1cf9_6d7c);
    }

    #[test]
    fn a_replaced_part_changes_the_whole_by_its_shifted_difference() {
        let old = noise(5 * BLOCK);
        let mut new = old.clone();
        new[BLOCK..2 * BLOCK].fill(7);
        let difference = crc32c::crc32c(&old[BLOCK..2 * BLOCK]) ^ crc32c::crc32c(&new[BLOCK..2 * BLOCK]);
        assert_eq!(crc32c::crc32c(&old) ^ shift(difference, 3 * BLOCK), crc32c::crc32c(&new));
    }

    #[test]
    fn parts_follow_block_borders_whatever_the_pieces() {
        let data = noise(2 * BLOCK + 500);
        for offset in [0, 1, 4000, BLOCK, BLOCK + 9] {
            for cuts in [vec![], vec![10], vec![0, 3, BLOCK - 1, BLOCK, 2 * BLOCK], vec![500, 500, 501]] {
                let mut pieces = Vec::new();
                let mut from = 0;
                for cut in cuts.iter().chain([&data.len()]) {
                    pieces.push(Bytes::copy_from_slice(&data[from..*cut]));
                    from = *cut;
                }
                let found = parts(offset, &pieces);
                assert_eq!(found.whole, crc32c::crc32c(&data));
                let (mut start, mut expected) = (0, Vec::new());
                while start < data.len() {
                    let end = data.len().min(start + BLOCK - (offset + start) % BLOCK);
                    expected.push(crc32c::crc32c(&data[start..end]));
                    if end == data.len() {
                        assert_eq!(found.last_len(), end - start);
                    }
                    start = end;
                }
                assert_eq!(found.crcs, expected);
            }
        }
        assert!(parts(5, &[]).crcs.is_empty());
    }
}
