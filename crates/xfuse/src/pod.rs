//! Plain-old-data views of the kernel's C structs. All `unsafe` about struct layout lives here.

/// Marks a `#[repr(C)]` struct made only of integers, without implicit padding.
///
/// # Safety
/// Every bit pattern must be a valid value and every byte of the struct must belong to a field, so that reading the
/// struct from arbitrary bytes and viewing it as bytes are both sound.
pub unsafe trait Pod: Copy + 'static {
    /// Reads the struct from the front of `bytes`; `None` if there are too few. Alignment does not matter.
    fn read_from(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < size_of::<Self>() {
            return None;
        }
        // SAFETY: the length was checked, the read is unaligned, and any bit pattern is valid (trait contract).
        Some(unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() })
    }

    /// The struct's bytes as the kernel expects them.
    fn as_bytes(&self) -> &[u8] {
        // SAFETY: the struct has no padding (trait contract), so all its bytes are initialised; u8 has no alignment.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast::<u8>(), size_of::<Self>()) }
    }
}
