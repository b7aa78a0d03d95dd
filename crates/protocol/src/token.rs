//! Text of user tokens (`src/core/user/UserToken.cc`).
//!
//! Eighteen bytes: magic, uid, a random number and a checksum over them, permuted, in base64. The checksum catches
//! typing errors only; a token is worth something because the server knows it.

use valor_wire::raw_crc32;

const LEN: usize = 18;
const MAGIC: [u8; 2] = [0xdb, 0xf1];
const CHECKED: usize = 14;
const MAPPING: [usize; LEN] = [12, 6, 0, 13, 7, 1, 14, 8, 2, 15, 9, 3, 16, 10, 4, 17, 11, 5];
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// A text that is no token; reported as 33 `InvalidFormat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid token format")]
pub struct InvalidToken;

/// The token of a user with a random number from a cryptographic source.
pub fn encode(uid: u32, random: u64) -> String {
    let mut plain = [0; LEN];
    plain[..2].copy_from_slice(&MAGIC);
    plain[2..6].copy_from_slice(&uid.to_le_bytes());
    plain[6..CHECKED].copy_from_slice(&random.to_le_bytes());
    let crc = raw_crc32(&plain[..CHECKED]);
    plain[CHECKED..].copy_from_slice(&crc.to_le_bytes());
    let mut mixed = [0; LEN];
    for (byte, position) in plain.into_iter().zip(MAPPING) {
        mixed[position] = byte;
    }
    let mut text = String::with_capacity(LEN / 3 * 4);
    for &[a, b, c] in mixed.as_chunks::<3>().0 {
        let bits = u32::from_be_bytes([0, a, b, c]);
        for shift in [18, 12, 6, 0] {
            text.push(char::from(ALPHABET[(bits >> shift & 63) as usize]));
        }
    }
    text
}

/// The uid and random number of a token.
///
/// # Errors
/// [`InvalidToken`] on a wrong length, character, magic or checksum.
pub fn decode(text: &str) -> Result<(u32, u64), InvalidToken> {
    let text: &[u8; LEN / 3 * 4] = text.as_bytes().try_into().map_err(|_| InvalidToken)?;
    let mut mixed = [0; LEN];
    for (quad, out) in text.as_chunks::<4>().0.iter().zip(mixed.as_chunks_mut::<3>().0) {
        let mut bits = 0u32;
        for letter in quad {
            let value = ALPHABET.iter().position(|known| known == letter).ok_or(InvalidToken)?;
            bits = bits << 6 | value as u32;
        }
        let [_, a, b, c] = bits.to_be_bytes();
        *out = [a, b, c];
    }
    let plain: [u8; LEN] = std::array::from_fn(|i| mixed[MAPPING[i]]);
    let [m0, m1, u0, u1, u2, u3, r0, r1, r2, r3, r4, r5, r6, r7, c0, c1, c2, c3] = plain;
    if [m0, m1] != MAGIC || raw_crc32(&plain[..CHECKED]) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err(InvalidToken);
    }
    let random = u64::from_le_bytes([r0, r1, r2, r3, r4, r5, r6, r7]);
    Ok((u32::from_le_bytes([u0, u1, u2, u3]), random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_cpp_3fs() {
        let text = "AADHHSOs8QA92iRe2wB1fmuL";
        let (uid, random) = decode(text).unwrap();
        assert_eq!(uid, 0);
        assert_eq!(encode(uid, random), text);
    }

    #[test]
    fn every_changed_letter_is_noticed() {
        let text = encode(1000, 0x0123_4567_89ab_cdef);
        assert_eq!(decode(&text), Ok((1000, 0x0123_4567_89ab_cdef)));
        for i in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[i] = if changed[i] == b'A' { b'B' } else { b'A' };
            assert_eq!(decode(std::str::from_utf8(&changed).unwrap()), Err(InvalidToken), "at {i}");
        }
        assert_eq!(decode(&text[..23]), Err(InvalidToken));
        assert_eq!(decode(""), Err(InvalidToken));
        assert_eq!(decode("!!!!!!!!!!!!!!!!!!!!!!!!"), Err(InvalidToken));
    }
}
