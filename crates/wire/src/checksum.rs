//! The CRCs of 3FS, and arithmetic on them.
//!
//! A CRC without inversions is linear: `update(reg, data) = shift(reg, data.len()) ^ update(0, data)`, where `shift`
//! multiplies by x^(8·len) modulo the polynomial. Two flavours of the same CRC-32C are in use, *raw* (initial value 0:
//! frames) and *storage* (initial value all ones: chunk data); both lack the final inversion of the standard one, so
//! each follows from the other, and checksums of pieces combine without reading the pieces again.

use bytes::Bytes;

/// Castagnoli polynomial, reflected.
const POLY_CRC32C: u32 = 0x82f6_3b78;
/// IEEE 802.3 polynomial, reflected.
const POLY_CRC32: u32 = 0xedb8_8320;
/// The polynomial 1 in reflected order.
const ONE: u32 = 1 << 31;

/// Product of two reflected polynomials modulo `poly`.
const fn multiply(poly: u32, a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = ONE;
    while bit != 0 && a & (bit | (bit - 1)) != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        b = if b & 1 != 0 { (b >> 1) ^ poly } else { b >> 1 };
        bit >>= 1;
    }
    product
}

/// x^(8·2^k) for k = 0..64: shifting over 2^k bytes.
const fn shift_table(poly: u32) -> [u32; 64] {
    let mut table = [0; 64];
    // x^8.
    let mut power = ONE >> 8;
    let mut k = 0;
    while k < 64 {
        table[k] = power;
        power = multiply(poly, power, power);
        k += 1;
    }
    table
}

static SHIFT_CRC32C: [u32; 64] = shift_table(POLY_CRC32C);
static SHIFT_CRC32: [u32; 64] = shift_table(POLY_CRC32);

/// One multiplication per set bit of `len`; powers of two, the common sizes of chunks and blocks, take one.
fn shift(poly: u32, table: &[u32; 64], register: u32, len: usize) -> u32 {
    let mut register = register;
    let mut rest = len;
    while rest != 0 {
        register = multiply(poly, table[rest.trailing_zeros() as usize], register);
        rest &= rest - 1;
    }
    register
}

/// What a CRC-32C register becomes after `len` zero bytes.
pub fn shift_crc32c(register: u32, len: usize) -> u32 {
    shift(POLY_CRC32C, &SHIFT_CRC32C, register, len)
}

/// Continues a CRC-32C register over `data`, without any inversion.
pub fn extend_raw_crc32c(register: u32, data: &[u8]) -> u32 {
    if data.is_empty() { register } else { !crc32c::crc32c_append(!register, data) }
}

/// CRC-32C with initial value 0 and no final inversion: the frame's.
pub fn raw_crc32c(data: &[u8]) -> u32 {
    extend_raw_crc32c(0, data)
}

/// CRC-32C with initial value all ones and no final inversion: `ChecksumInfo` of chunk data.
pub fn storage_crc32c(data: &[u8]) -> u32 {
    extend_raw_crc32c(!0, data)
}

/// Continues a [`storage_crc32c`] over more data.
pub fn extend_storage_crc32c(crc: u32, data: &[u8]) -> u32 {
    extend_raw_crc32c(crc, data)
}

/// Storage checksum of `a` followed by `b`, from theirs and the length of `b`.
pub fn combine_storage_crc32c(a: u32, b: u32, b_len: usize) -> u32 {
    extend_storage_crc32c_known(a, b, b_len)
}

/// Continues any CRC-32C register over `len` bytes whose storage checksum is `crc`.
pub(crate) fn extend_storage_crc32c_known(register: u32, crc: u32, len: usize) -> u32 {
    shift_crc32c(!register, len) ^ crc
}

const fn table_crc32() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut register = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            register = if register & 1 != 0 { (register >> 1) ^ POLY_CRC32 } else { register >> 1 };
            bit += 1;
        }
        table[byte] = register;
        byte += 1;
    }
    table
}

static TABLE_CRC32: [u32; 256] = table_crc32();

fn raw_crc32_extend(register: u32, data: &[u8]) -> u32 {
    data.iter().fold(register, |register, &byte| {
        (register >> 8) ^ TABLE_CRC32[((register ^ u32::from(byte)) & 0xff) as usize]
    })
}

/// CRC-32 (IEEE) with initial value 0 and no final inversion: user tokens.
pub fn raw_crc32(data: &[u8]) -> u32 {
    raw_crc32_extend(0, data)
}

/// CRC-32 (IEEE) with initial value all ones and no final inversion: `ChecksumInfo` of type `CRC32`.
pub fn storage_crc32(data: &[u8]) -> u32 {
    raw_crc32_extend(!0, data)
}

/// Continues a [`storage_crc32`] over more data.
pub fn extend_storage_crc32(crc: u32, data: &[u8]) -> u32 {
    raw_crc32_extend(crc, data)
}

/// Like [`combine_storage_crc32c`] for CRC-32 (IEEE).
pub fn combine_storage_crc32(a: u32, b: u32, b_len: usize) -> u32 {
    shift(POLY_CRC32, &SHIFT_CRC32, !a, b_len) ^ b
}

/// Distance between remembered registers of a [`BodyCrc`].
const MARK_INTERVAL: usize = 16 << 10;
/// Bodies shorter than this are cheap to read twice.
const MARK_MIN: usize = 64 << 10;

/// The checksum of a received body, computed once, from which the storage checksum of a slice of it follows almost
/// for free: registers are remembered along the way, so that only the ends of the slice are read again.
#[derive(Clone, Debug, Default)]
pub struct BodyCrc {
    body: Bytes,
    crc: u32,
    /// Raw register after every `MARK_INTERVAL` bytes; empty for small bodies.
    marks: Vec<u32>,
}

impl BodyCrc {
    /// Reads `body` once.
    pub fn new(body: Bytes) -> Self {
        if body.len() < MARK_MIN {
            // Not kept: small bodies share their buffer with others, which would stay alive with them.
            return Self { crc: raw_crc32c(&body), body: Bytes::new(), marks: Vec::new() };
        }
        let mut crc = 0;
        let mut marks = Vec::with_capacity(body.len() / MARK_INTERVAL + 1);
        for block in body.chunks(MARK_INTERVAL) {
            crc = extend_raw_crc32c(crc, block);
            marks.push(crc);
        }
        Self { body, crc, marks }
    }

    /// Raw CRC-32C of the whole body.
    pub fn crc(&self) -> u32 {
        self.crc
    }

    /// Storage checksum of `slice`. If it shares the body's memory, at most 32 KiB of it are read.
    pub fn storage_crc32c(&self, slice: &[u8]) -> u32 {
        let start = (slice.as_ptr() as usize).wrapping_sub(self.body.as_ptr() as usize);
        let inside = start <= self.body.len() && slice.len() <= self.body.len() - start;
        if !inside || self.marks.is_empty() || slice.len() <= 2 * MARK_INTERVAL {
            return storage_crc32c(slice);
        }
        let before = self.register_at(start);
        let after = self.register_at(start + slice.len());
        // update(before, slice) = after; exchange the register it started from.
        after ^ shift_crc32c(!before, slice.len())
    }

    /// The raw register after the first `at` bytes.
    fn register_at(&self, at: usize) -> u32 {
        let block = at / MARK_INTERVAL;
        let register = if block == 0 { 0 } else { self.marks[block - 1] };
        extend_raw_crc32c(register, &self.body[block * MARK_INTERVAL..at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHECK: &[u8] = b"123456789";

    #[test]
    fn reference_values() {
        assert_eq!(raw_crc32c(CHECK), 0x58e3_fa20);
        assert_eq!(storage_crc32c(CHECK), 0x1cf9_6d7c);
        assert_eq!(storage_crc32(CHECK), !0xcbf4_3926);
        assert_eq!(raw_crc32(CHECK), 0x2dfd_2d88);
        assert_eq!(raw_crc32c(b""), 0);
        assert_eq!(storage_crc32c(b""), !0);
    }

    #[test]
    fn combining_equals_reading() {
        let data: Vec<u8> = (0..70_000u32).map(|i| (i.wrapping_mul(i) >> 3) as u8).collect();
        for split in [0, 1, 7, 4096, 65_536, data.len()] {
            let (a, b) = data.split_at(split);
            assert_eq!(
                combine_storage_crc32c(storage_crc32c(a), storage_crc32c(b), b.len()),
                storage_crc32c(&data)
            );
            assert_eq!(
                combine_storage_crc32(storage_crc32(a), storage_crc32(b), b.len()),
                storage_crc32(&data)
            );
            assert_eq!(
                extend_storage_crc32c_known(raw_crc32c(a), storage_crc32c(b), b.len()),
                raw_crc32c(&data)
            );
            assert_eq!(extend_storage_crc32c(storage_crc32c(a), b), storage_crc32c(&data));
        }
    }

    #[test]
    fn slices_of_a_body() {
        let body: Bytes =
            (0..300_001u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<_>>().into();
        let crc = BodyCrc::new(body.clone());
        assert_eq!(crc.crc(), raw_crc32c(&body));
        for (start, end) in
            [(0, 300_001), (151, 262_295), (16_384, 65_536), (5, 40_000), (299_000, 300_001), (0, 0)]
        {
            assert_eq!(crc.storage_crc32c(&body.slice(start..end)), storage_crc32c(&body[start..end]));
        }
        assert_eq!(crc.storage_crc32c(CHECK), storage_crc32c(CHECK));
        let small = BodyCrc::new(body.slice(..100));
        assert_eq!(small.storage_crc32c(&body.slice(1..99)), storage_crc32c(&body[1..99]));
    }
}
