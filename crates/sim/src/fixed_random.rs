//! The operating system's random numbers, fixed: the order of hash tables and the choices of `tokio::select!` come from
//! them, and must depend on the seed alone.

use std::sync::atomic::{AtomicU64, Ordering};

static STATE: AtomicU64 = AtomicU64::new(0);

/// Sets the beginning of the stream.
pub fn seed(seed: u64) {
    STATE.store(seed, Ordering::Relaxed);
}

/// Stands in for the C library's `getrandom`, which the standard library calls through a weak symbol so that programs can
/// replace it.
///
/// # Safety
/// As `getrandom(2)`: `buf` must be valid for writes of `len` bytes.
// SAFETY: the name and the signature are those of the C library, whose function this is meant to replace.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(
    buf: *mut libc::c_void,
    len: libc::size_t,
    _flags: libc::c_uint,
) -> libc::ssize_t {
    // SAFETY: the caller promises `len` writable bytes, and nobody else uses them during the call.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buf.cast::<std::mem::MaybeUninit<u8>>(), len) };
    for byte in bytes {
        let mut word = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        byte.write((word >> 56) as u8);
    }
    len as libc::ssize_t
}
