//! Request buffers.

use crate::buffer::*;

#[tokio::test]
async fn buffers_return_when_the_payload_is_dropped() {
    let pool = Pool::new(1 << 20, 1);
    let mut buffer = pool.take().await.unwrap();
    assert!(buffer.space().len() >= (1 << 20) + WRITE_HEADERS);
    buffer.space()[WRITE_HEADERS..WRITE_HEADERS + 3].copy_from_slice(b"abc");
    buffer.set_filled(WRITE_HEADERS + 3);
    let request = buffer.freeze();
    let payload = request.slice(WRITE_HEADERS..);
    assert_eq!(payload.as_ptr() as usize % 4096, 0, "payload is page aligned");
    drop(request);
    assert_eq!(pool.in_use(), 1);
    let waiter = tokio::spawn({
        let pool = pool.clone();
        async move { pool.take().await.map(drop) }
    });
    tokio::task::yield_now().await;
    assert!(!waiter.is_finished(), "the pool is bounded");
    assert_eq!(&payload[..], b"abc");
    drop(payload);
    waiter.await.unwrap().unwrap();
    assert_eq!(pool.in_use(), 0);
}
