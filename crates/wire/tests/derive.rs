//! What the derive macro's attributes mean, in bytes.

use bytes::Bytes;
use valor_wire::{DecodeError, Void, Wire, from_bytes, to_bytes};

fn check<T: Wire + PartialEq + std::fmt::Debug>(value: T, bytes: &[u8]) {
    assert_eq!(to_bytes(&value), bytes);
    assert_eq!(from_bytes::<T>(Bytes::copy_from_slice(bytes)), Ok(value));
}

fn decode<T: Wire>(bytes: &'static [u8]) -> Result<T, DecodeError> {
    from_bytes(Bytes::from_static(bytes))
}

#[derive(Clone, Debug, PartialEq, Wire)]
struct Settings {
    level: u8,
    limit: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Self { level: 7, limit: 300 }
    }
}

#[test]
fn tables() {
    check(Settings { level: 1, limit: 2 }, &[3, 1, 2, 0]);
    // An older peer's: missing fields keep their default.
    assert_eq!(decode(&[0]), Ok(Settings::default()));
    assert_eq!(decode(&[1, 9]), Ok(Settings { level: 9, limit: 300 }));
    // A newer peer's: surplus bytes are skipped, and what follows the table is found.
    assert_eq!(decode(&[5, 9, 1, 0, 0xee, 0xee, 0x42]), Ok((Settings { level: 9, limit: 1 }, 0x42u8)));
    // Cut inside a field, or before the end that was announced.
    assert_eq!(decode::<Settings>(&[2, 9, 1]).unwrap_err().code(), 40);
    assert_eq!(decode::<Settings>(&[3, 9, 1]).unwrap_err().code(), 40);
    assert_eq!(decode::<Settings>(&[]).unwrap_err().code(), 40);
    assert_eq!(Settings::MIN_SIZE, 1);
}

#[derive(Debug, Default, PartialEq, Wire)]
struct Nothing {
    dummy: Void,
}

#[derive(Debug, Default, PartialEq, Wire)]
struct Derived {
    #[wire(base)]
    base: Settings,
    extra: u8,
}

#[derive(Debug, Default, PartialEq, Wire)]
struct DerivedTwice {
    #[wire(base)]
    base: Derived,
    dummy: Void,
}

#[derive(Debug, Default, PartialEq, Wire)]
struct DerivedWithoutFields {
    #[wire(base)]
    base: Settings,
}

#[test]
fn inheritance_is_tables_side_by_side() {
    let base = Settings { level: 1, limit: 2 };
    check(Nothing::default(), &[0]);
    check(Derived { base: base.clone(), extra: 5 }, &[3, 1, 2, 0, 1, 5]);
    let derived = Derived { base: base.clone(), extra: 5 };
    check(DerivedTwice { base: derived, dummy: Void }, &[3, 1, 2, 0, 1, 5, 0]);
    check(DerivedWithoutFields { base }, &[3, 1, 2, 0]);
    assert_eq!((Derived::MIN_SIZE, DerivedTwice::MIN_SIZE, DerivedWithoutFields::MIN_SIZE), (2, 3, 1));
    // A missing derived table is an error, not defaults.
    assert_eq!(decode::<Derived>(&[3, 1, 2, 0]).unwrap_err().code(), 40);
}

#[derive(Debug, PartialEq, Wire)]
#[wire(raw)]
struct Pair {
    first: u16,
    second: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Wire)]
struct Id(u32);

#[test]
fn raw_structs_and_newtypes() {
    check(Pair { first: 1, second: 2 }, &[1, 0, 2]);
    check(vec![Id(1), Id(2)], &[2, 1, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!((Pair::MIN_SIZE, Id::MIN_SIZE), (3, 4));
}

#[derive(Debug, PartialEq, Wire)]
#[repr(u8)]
enum State {
    Off = 0,
    On = 2,
}

#[derive(Debug, PartialEq, Wire)]
#[repr(i32)]
enum Signed {
    Minus = -1,
}

#[test]
fn integer_enums() {
    check(State::Off, &[0]);
    check(State::On, &[2]);
    check(Signed::Minus, &[0xff; 4]);
    let error = decode::<State>(&[1]).unwrap_err();
    assert_eq!(error, DecodeError::UnknownEnum { name: "State", value: 1 });
    assert_eq!(error.code(), 43);
}

#[derive(Debug, PartialEq, Wire)]
#[wire(variant)]
enum Value {
    #[wire(name = "long")]
    Number(i64),
    Settings(Settings),
}

#[derive(Debug, Default, PartialEq, Wire)]
#[wire(variant)]
enum Extensible {
    Number(u8),
    #[default]
    #[wire(fallback)]
    Unknown,
}

#[derive(Debug, Default, PartialEq, Wire)]
struct Holder {
    value: Extensible,
    after: u8,
}

#[test]
fn variants() {
    check(Value::Number(-1), b"\x04long\xff\xff\xff\xff\xff\xff\xff\xff");
    check(Value::Settings(Settings::default()), b"\x08Settings\x03\x07\x2c\x01");
    let error = decode::<Value>(b"\x06Number\0\0\0\0\0\0\0\0").unwrap_err();
    assert_eq!((error.code(), error), (42, DecodeError::UnknownVariant { name: "Number".into() }));
    check(Extensible::Number(3), b"\x06Number\x03");
    // What an unknown alternative holds is unknown too, so the rest of the table is skipped.
    let holder = (Holder { value: Extensible::Unknown, after: 0 }, 0x42u8);
    assert_eq!(decode(b"\x08\x05Newer\x2a\x09\x42"), Ok(holder));
}

#[derive(Debug, Default, PartialEq, Wire)]
struct Generic<T: Default> {
    inner: Option<T>,
}

#[test]
fn generics() {
    check(Generic { inner: Some(5u8) }, &[2, 1, 5]);
    check(Generic::<String>::default(), &[1, 0]);
}
