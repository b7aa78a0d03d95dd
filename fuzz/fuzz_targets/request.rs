//! Requests as a broken kernel would send them, as both transports give them to the decoders.
//!
//! The first byte chooses what was negotiated, and whether the length field is made right, so that the fuzzer need not
//! guess it. What a decoded request refers to must lie within it, whether its bytes are borrowed or counted.

#![no_main]

#[path = "../../crates/xfuse/tests/bodies/requests.rs"]
#[allow(dead_code)]
mod requests;

use libfuzzer_sys::fuzz_target;
use xfuse::decode::{Body, Shape};
use xfuse::init::Offer;

fuzz_target!(|data: &[u8]| {
    let Some((options, request)) = data.split_first() else { return };
    let mut request = request.to_vec();
    let len = request.len() as u32;
    if options & 1 == 0
        && let Some(field) = request.get_mut(..4)
    {
        field.copy_from_slice(&len.to_ne_bytes());
    }
    requests::verdict(&request, Shape { setxattr_ext: options & 2 == 0 });
    let _ = Offer::decode(&request);
    let mut body = Body::new(&request);
    while body.text().is_ok_and(|text| text.len() < request.len()) {}
});
