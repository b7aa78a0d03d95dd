//! Requests as a real kernel sends them, what a broken one might make of them, and what must come of each.

use bytes::Bytes;
use std::os::unix::ffi::OsStrExt;
use xfuse::abi::{self, Opcode, Pod};
use xfuse::decode::{self, Body, Decode, DecodeError, Shape};
use xfuse::request::*;

/// See `tests/recording.rs`.
const RECORDED: &[u8] = include_bytes!("../golden/requests.bin");

/// Requests of a real kernel, of every operation that it sends to a file system like those of the tests.
pub fn recorded() -> Vec<Vec<u8>> {
    let mut rest = RECORDED;
    let mut list = Vec::new();
    while let Some(header) = abi::InHeader::read_from(rest) {
        let (request, others) = rest.split_at(header.len as usize);
        list.push(request.to_vec());
        rest = others;
    }
    list
}

/// The recorded requests, and made ones of the operations that a kernel sends to others only.
pub fn real() -> Vec<Vec<u8>> {
    let mut list = recorded();
    let mapping = abi::RemovemappingOne { moffset: 0, len: 4096 };
    let mappings =
        [abi::RemovemappingIn { count: 2 }.as_bytes(), mapping.as_bytes(), mapping.as_bytes()].concat();
    let made = [
        (Opcode::Bmap, abi::BmapIn { block: 3, blocksize: 512, padding: 0 }.as_bytes().to_vec()),
        (Opcode::Destroy, Vec::new()),
        (Opcode::Setupmapping, abi::SetupmappingIn { len: 4096, ..Default::default() }.as_bytes().to_vec()),
        (Opcode::Removemapping, mappings),
        (Opcode::Syncfs, abi::SyncfsIn::default().as_bytes().to_vec()),
        (Opcode::CopyFileRange, abi::CopyFileRangeIn { len: 10, ..Default::default() }.as_bytes().to_vec()),
        (Opcode::Statx, abi::StatxIn { sx_mask: 0x7ff, ..Default::default() }.as_bytes().to_vec()),
        (Opcode::CuseInit, vec![0; 16]),
    ];
    list.extend(made.iter().map(|(opcode, body)| request(opcode.code(), 2, body)));
    list
}

/// A request with right lengths.
pub fn request(opcode: u32, unique: u64, body: &[u8]) -> Vec<u8> {
    let len = (size_of::<abi::InHeader>() + body.len()) as u32;
    let header = abi::InHeader { len, opcode, unique, nodeid: 1, ..Default::default() };
    [header.as_bytes(), body].concat()
}

/// Gives a request the id by which its answer is recognised, if it is long enough to have one.
pub fn set_unique(request: &mut [u8], unique: u64) {
    if let Some(field) = request.get_mut(8..16) {
        field.copy_from_slice(&unique.to_ne_bytes());
    }
}

/// The same numbers for the same seed.
pub struct Random(u64);

impl Random {
    /// The seed in `XFUSE_SEED`, or always the same; printed, for the case that the test fails.
    pub fn from_env() -> Self {
        let seed = std::env::var("XFUSE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0x5eed);
        println!("seed {seed} (XFUSE_SEED)");
        Random(seed)
    }

    /// SplitMix64.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    /// Bytes that often look like requests: small numbers and NULs are common.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len)
            .map(|_| match self.below(6) {
                0..3 => 0,
                3..5 => 1 + self.below(7) as u8,
                _ => self.next() as u8,
            })
            .collect()
    }
}

/// Numbers at which arithmetic goes wrong.
const NUMBERS: [u32; 10] =
    [0, 1, 7, 8, 0x7fff_ffff, 0x8000_0000, 0xffff_fff0, 0xffff_fff8, 0xffff_fffe, 0xffff_ffff];

/// Changes a request in one place. `other` is where parts come from.
fn change(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = random.below(bytes.len());
    match random.below(9) {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
        1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
        2 => bytes.truncate(at),
        3 if !bytes.is_empty() => drop(bytes.remove(at)),
        4 if bytes.len() >= 4 => {
            let at = random.below(bytes.len() / 4) * 4;
            bytes[at..at + 4].copy_from_slice(&random.pick(&NUMBERS).to_ne_bytes());
        }
        5 => {
            let from = random.below(other.len());
            bytes.splice(at..at, other[from..].iter().copied().take(40));
        }
        6 if bytes.len() >= 38 => {
            let extensions = random.below(12) as u16;
            bytes[36..38].copy_from_slice(&extensions.to_ne_bytes());
        }
        7 => {
            let more = random.below(32);
            let more = random.bytes(more);
            bytes.extend(more);
        }
        // Terminators go.
        _ => bytes
            .iter_mut()
            .skip(40 + random.below(8))
            .filter(|byte| **byte == 0)
            .take(1)
            .for_each(|byte| *byte = b'x'),
    }
}

/// A request that began as a real one, or as nothing.
pub fn mutated(real: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = match random.below(16) {
        0 => {
            let len = random.below(300);
            random.bytes(len)
        }
        1 => {
            let len = random.below(300);
            request(random.below(60) as u32, 2, &random.bytes(len))
        }
        _ => random.pick(real).clone(),
    };
    for _ in 0..random.below(4) {
        let other = random.below(real.len());
        change(&mut bytes, &real[other], random);
    }
    // Mostly the length field is right, or nothing else would be looked at.
    if random.below(4) > 0 && bytes.len() >= 4 {
        let len = bytes.len() as u32;
        bytes[..4].copy_from_slice(&len.to_ne_bytes());
    }
    bytes
}

/// What a request deserves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// No header, or lengths that contradict each other: EIO, if there is an id to answer to.
    Unreadable,
    /// An operation that the crate does not know: ENOSYS.
    Unknown,
    /// Arguments that are none: EINVAL, or nothing if the kernel does not wait for an answer.
    Malformed,
    /// The handler's business.
    Good,
}

/// The verdict on a request, from the public decoders.
pub fn verdict(bytes: &[u8], shape: Shape) -> Verdict {
    let Ok((header, body, extensions)) = decode::split(bytes) else { return Verdict::Unreadable };
    match decode::supplementary_groups(extensions) {
        Ok(groups) => assert!(groups.len() * 4 <= extensions.len()),
        Err(_) => return Verdict::Unreadable,
    }
    let Some(opcode) = Opcode::from_code(header.opcode) else { return Verdict::Unknown };
    let borrowed = arguments(opcode, &header, &mut Body::new(body), body, shape);
    let shared = Bytes::copy_from_slice(bytes);
    let part = shared.slice_ref(decode::split(&shared).expect("the same bytes").1);
    let counted = arguments(opcode, &header, &mut Body::in_buffer(&part, &shared), &part, shape);
    assert_eq!(borrowed, counted);
    if borrowed.is_ok() { Verdict::Good } else { Verdict::Malformed }
}

/// Decodes the arguments as the operation's. Whatever they refer to must be a part of the body.
fn arguments<'a>(
    opcode: Opcode,
    header: &abi::InHeader,
    body: &mut Body<'a>,
    all: &'a [u8],
    shape: Shape,
) -> Result<(), DecodeError> {
    macro_rules! decode {
        ($type:ty $(, $field:ident)*) => {{
            let _request = <$type>::decode(header, body, shape)?;
            $(assert!(within(_request.$field.part(), all), "{} beyond its request", stringify!($field));)*
        }};
    }
    match opcode {
        Opcode::Lookup => decode!(Lookup, name),
        Opcode::Getattr => decode!(Getattr),
        Opcode::Statx => decode!(Statx),
        Opcode::Setattr => decode!(Setattr),
        Opcode::Readlink => decode!(Readlink),
        Opcode::Symlink => decode!(Symlink, name, target),
        Opcode::Mknod => decode!(Mknod, name),
        Opcode::Mkdir => decode!(Mkdir, name),
        Opcode::Unlink => decode!(Unlink, name),
        Opcode::Rmdir => decode!(Rmdir, name),
        Opcode::Rename | Opcode::Rename2 => decode!(Rename, name, new_name),
        Opcode::Link => decode!(Link, new_name),
        Opcode::Open | Opcode::Opendir => decode!(Open),
        Opcode::Create => decode!(Create, name),
        Opcode::Tmpfile => decode!(Tmpfile),
        Opcode::Read => decode!(Read),
        Opcode::Write => {
            let write = Write::decode(header, body, shape)?;
            assert!(write.data.len() + size_of::<abi::WriteIn>() <= all.len());
        }
        Opcode::Statfs => decode!(Statfs),
        Opcode::Flush => decode!(Flush),
        Opcode::Release | Opcode::Releasedir => decode!(Release),
        Opcode::Fsync | Opcode::Fsyncdir => decode!(Fsync),
        Opcode::Setxattr => decode!(Setxattr, name, value),
        Opcode::Getxattr => decode!(Getxattr, name),
        Opcode::Listxattr => decode!(Listxattr),
        Opcode::Removexattr => decode!(Removexattr, name),
        Opcode::Readdir | Opcode::Readdirplus => decode!(Readdir),
        Opcode::Getlk | Opcode::Setlk | Opcode::Setlkw => decode!(Lk),
        Opcode::Access => decode!(Access),
        Opcode::Bmap => decode!(Bmap),
        Opcode::Ioctl => decode!(Ioctl, input),
        Opcode::Poll => decode!(Poll),
        Opcode::Fallocate => decode!(Fallocate),
        Opcode::Lseek => decode!(Lseek),
        Opcode::CopyFileRange | Opcode::CopyFileRange64 => decode!(CopyFileRange),
        Opcode::Setupmapping => decode!(Setupmapping),
        Opcode::Removemapping => {
            let request = Removemapping::decode(header, body, shape)?;
            assert!(request.mappings.len() * size_of::<abi::RemovemappingOne>() < all.len());
        }
        Opcode::Syncfs => decode!(Syncfs),
        _ => return without_handler(opcode, body),
    }
    Ok(())
}

/// Operations whose arguments are no part of the public interface.
fn without_handler(opcode: Opcode, body: &mut Body<'_>) -> Result<(), DecodeError> {
    match opcode {
        Opcode::Forget => body.take::<abi::ForgetIn>().map(drop),
        Opcode::BatchForget => {
            let count = body.take::<abi::BatchForgetIn>()?.count as usize;
            let fits = count <= body.remaining() / size_of::<abi::ForgetOne>();
            if fits { Ok(()) } else { Err(DecodeError::Truncated) }
        }
        Opcode::Interrupt => body.take::<abi::InterruptIn>().map(drop),
        Opcode::NotifyReply => body.take::<abi::NotifyRetrieveIn>().map(drop),
        _ => Ok(()),
    }
}

/// What a request refers to of its own bytes.
trait Part {
    fn part(&self) -> &[u8];
}

impl Part for &std::ffi::OsStr {
    fn part(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl Part for &[u8] {
    fn part(&self) -> &[u8] {
        self
    }
}

fn within(part: &[u8], all: &[u8]) -> bool {
    let (part, all) = (part.as_ptr_range(), all.as_ptr_range());
    all.start <= part.start && part.end <= all.end
}
