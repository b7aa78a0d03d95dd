//! Messages made to exhaust the receiver, under an allocator that counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use valor_wire::{
    Compression, DecodeError, Encoder, FrameError, FrameHeader, HEADER_LEN, MAX_FRAME, MessagePacket,
    PacketHead, Void, Wire, encode_frame, encode_message, from_bytes, open_body, raw_crc32c, to_bytes,
};

/// The system's allocator; remembers the largest request of each thread, and their number.
struct Watching;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.set(LARGEST.get().max(layout.size()));
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

fn largest_allocation<T>(run: impl FnOnce() -> T) -> (T, usize) {
    LARGEST.set(0);
    let value = run();
    (value, LARGEST.get())
}

#[derive(Clone, Debug, PartialEq, Wire)]
struct Big {
    numbers: [u8; 256],
    text: String,
}

impl Default for Big {
    fn default() -> Self {
        Self { numbers: [0; 256], text: String::new() }
    }
}

fn count(count: u64, rest: &[u8]) -> Bytes {
    let mut out = Encoder::new();
    out.put_slice(rest);
    out.put_varint(count);
    out.finish().to_bytes()
}

#[test]
fn counts_are_checked_before_anything_is_reserved() {
    for n in [100, 1 << 20, u64::from(u32::MAX), u64::MAX] {
        let input = count(n, &[0; 50]);
        let ((), largest) = largest_allocation(|| {
            assert!(from_bytes::<Vec<Big>>(input.clone()).is_err());
            assert!(from_bytes::<Vec<u64>>(input.clone()).is_err());
            assert!(from_bytes::<Vec<u8>>(input.clone()).is_err());
            assert!(from_bytes::<Vec<Vec<Vec<u8>>>>(input.clone()).is_err());
            assert!(from_bytes::<BTreeMap<u32, Big>>(input.clone()).is_err());
            assert!(from_bytes::<BTreeSet<String>>(input.clone()).is_err());
            assert!(from_bytes::<String>(input.clone()).is_err());
            assert!(from_bytes::<Bytes>(input.clone()).is_err());
            assert!(from_bytes::<MessagePacket>(input.clone()).is_err());
        });
        assert!(largest < 1000, "{largest} bytes for {n} elements in 50 bytes");
    }
}

#[test]
fn elements_without_bytes_are_limited() {
    assert_eq!(from_bytes::<Vec<Void>>(count(u64::MAX, &[])), Err(DecodeError::LimitExceeded));
    assert_eq!(from_bytes::<Vec<()>>(count(u64::from(u32::MAX), &[])), Err(DecodeError::LimitExceeded));
    assert_eq!(from_bytes::<BTreeSet<Void>>(count(u64::MAX, &[])), Err(DecodeError::LimitExceeded));
    assert_eq!(from_bytes::<Vec<Void>>(count(3, &[])), Ok(vec![Void; 3]));
}

#[test]
fn default_valued_elements_do_not_exhaust_memory() {
    // A byte each on the wire, 280 in memory.
    let input = count(1 << 20, &vec![0; 1 << 20]);
    let (result, largest) = largest_allocation(|| from_bytes::<Vec<Big>>(input));
    assert_eq!(result, Err(DecodeError::LimitExceeded));
    assert!(largest < 1 << 20);
    let few = from_bytes::<Vec<Big>>(count(1000, &[0; 1000])).unwrap();
    assert_eq!(few, vec![Big::default(); 1000]);
}

#[derive(Debug, Default, Wire)]
struct Chain {
    next: Option<Box<Chain>>,
}

#[test]
fn recursion_is_bounded() {
    let mut chain = Chain::default();
    for _ in 0..20 {
        chain = Chain { next: Some(Box::new(chain)) };
    }
    assert!(from_bytes::<Chain>(to_bytes(&chain)).is_ok());
    // Lengths that fit at every level: each table takes all that follows.
    let mut deep = Encoder::new();
    for _ in 0..5000 {
        deep.put_u8(1);
        deep.put_length_since(0);
    }
    assert_eq!(from_bytes::<Chain>(deep.finish().to_bytes()).unwrap_err(), DecodeError::LimitExceeded);
}

#[test]
fn varints() {
    for (bytes, value) in [(&[0x7f][..], 127), (&[0x80, 1], 128), (&[0xff; 9], 0)] {
        let decoded =
            from_bytes::<valor_wire::Varint64>(Bytes::from_static(bytes)).map(|varint| varint.0).ok();
        assert_eq!(decoded, (value > 0).then_some(value));
    }
    let mut max = [0xff; 10];
    max[9] = 1;
    let decode =
        |bytes: &[u8]| from_bytes::<valor_wire::Varint64>(Bytes::copy_from_slice(bytes)).map(|v| v.0);
    assert_eq!(decode(&max), Ok(u64::MAX));
    max[9] = 2;
    assert_eq!(decode(&max), Err(DecodeError::VarintOverflow));
    assert_eq!(decode(&[0x80; 11]), Err(DecodeError::VarintOverflow));
    assert_eq!(decode(&[]).unwrap_err().code(), 40);
}

#[test]
fn decompression_follows_what_comes_out() {
    let zeros = Bytes::from(vec![0; 64 << 20]);
    let frame = encode_frame(zeros.clone().into(), Some(Compression { level: 1, threshold: 0 })).concat();
    drop(zeros);
    let mut header = FrameHeader::parse(frame[..HEADER_LEN].try_into().unwrap()).unwrap();
    assert!(frame.len() < 100_000);
    let (opened, _) = open_body(header, Bytes::copy_from_slice(&frame[HEADER_LEN..])).unwrap();
    assert_eq!(opened.len(), 64 << 20);
    // Cut: it announces 64 MiB and cannot bring them.
    let cut = Bytes::copy_from_slice(&frame[HEADER_LEN..HEADER_LEN + 60]);
    header = FrameHeader::new(raw_crc32c(&cut), cut.len() as u32, true);
    let (result, largest) = largest_allocation(|| open_body(header, cut).unwrap_err());
    assert_eq!(result, FrameError::BadCompression);
    assert!(largest < 8 << 20, "{largest}");
}

#[test]
fn what_is_announced_beyond_the_limit_is_refused() {
    // Frame header of ZSTD: magic, descriptor for an 8-byte content size, size, then nothing.
    let mut bomb = vec![0x28, 0xb5, 0x2f, 0xfd, 0xe0];
    bomb.extend_from_slice(&(1u64 << 40).to_le_bytes());
    let header = FrameHeader::new(raw_crc32c(&bomb), bomb.len() as u32, true);
    assert_eq!(open_body(header, bomb.into()).unwrap_err(), FrameError::TooLarge(1 << 40));
    let large = FrameHeader { checksum: 0x86, size: MAX_FRAME as u32 };
    assert_eq!(FrameHeader::parse(&large.to_bytes()), Err(FrameError::TooLarge(MAX_FRAME as u64)));
    let fits = FrameHeader { size: MAX_FRAME as u32 - 1, ..large };
    assert_eq!(FrameHeader::parse(&fits.to_bytes()), Ok(fits));
    for magic in [0x00, 0x85, 0x88, 0x96, 0xff] {
        let header = FrameHeader { checksum: magic, size: 0 };
        assert_eq!(FrameHeader::parse(&header.to_bytes()), Err(FrameError::BadMagic(magic as u8)));
    }
}

#[derive(Debug, Default, PartialEq, Wire)]
struct Small {
    text: String,
    numbers: Vec<u32>,
}

#[test]
fn a_small_message_costs_one_allocation() {
    let message = Small { text: "twenty bytes of text".into(), numbers: vec![1, 2, 3] };
    let encode = || encode_message(&PacketHead::default(), &message, &[], None);
    drop(encode());
    let before = COUNT.get();
    let frame = encode();
    assert_eq!(COUNT.get() - before, 1);
    assert_eq!(frame.iter().count(), 1);
}

#[test]
fn bulk_data_is_neither_copied_nor_grown_for() {
    let data = Bytes::from(vec![7; 1 << 20]);
    let (frame, largest) = largest_allocation(|| encode_message(&PacketHead::default(), &data, &[], None));
    assert!(largest < 4096, "{largest}");
    assert!(frame.iter().any(|segment| segment.as_ptr() == data.as_ptr()));
    let frame = frame.to_bytes();
    let header = FrameHeader::parse(frame[..HEADER_LEN].try_into().unwrap()).unwrap();
    let (body, _) = open_body(header, frame.slice(HEADER_LEN..)).unwrap();
    let packet: MessagePacket = from_bytes(body).unwrap();
    let (received, largest) = largest_allocation(|| from_bytes::<Bytes>(packet.payload).unwrap());
    assert_eq!(received, data);
    assert!(frame.as_ptr_range().contains(&received.as_ptr()));
    assert!(largest < 4096, "{largest}");
}
