//! Text forms of durations and sizes, as 3FS writes them (`src/common/utils/{Duration,Size}.h`).

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

/// A span of time written as `"1min 30s"`: units `day h min s ms us ns`, strictly descending.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Duration(std::time::Duration);

const DURATION_UNITS: [(&str, u64); 7] = [
    ("day", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("min", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

impl Duration {
    /// From the standard type; below a nanosecond nothing is kept, above 584 years it saturates.
    #[must_use]
    pub const fn new(value: std::time::Duration) -> Self {
        Self(value)
    }

    /// Whole seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(std::time::Duration::from_secs(seconds))
    }

    /// Whole milliseconds.
    #[must_use]
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(std::time::Duration::from_millis(milliseconds))
    }

    /// Whole microseconds.
    #[must_use]
    pub const fn from_micros(microseconds: u64) -> Self {
        Self(std::time::Duration::from_micros(microseconds))
    }

    /// The standard type.
    #[must_use]
    pub const fn get(self) -> std::time::Duration {
        self.0
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX);
        if rest == 0 {
            return f.write_str("0ns");
        }
        let mut first = true;
        for (unit, nanos) in DURATION_UNITS {
            let count = rest / nanos;
            if count > 0 {
                rest %= nanos;
                if !first {
                    f.write_str(" ")?;
                }
                first = false;
                write!(f, "{count}{unit}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not a duration; write for example \"10s\" or \"1min 30s\"");
        let mut total: u64 = 0;
        let mut next_unit = 0;
        let mut rest = text.trim();
        if rest == "0" {
            return Ok(Self::default());
        }
        if rest.is_empty() {
            return Err(bad());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
            let count: u64 = rest[..digits].parse().map_err(|_| bad())?;
            rest = rest[digits..].trim_start();
            let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
            let position = DURATION_UNITS.iter().position(|(unit, _)| *unit == &rest[..letters]);
            let position = position.filter(|p| *p >= next_unit).ok_or_else(bad)?;
            next_unit = position + 1;
            total = count
                .checked_mul(DURATION_UNITS[position].1)
                .and_then(|nanos| total.checked_add(nanos))
                .ok_or_else(bad)?;
            rest = rest[letters..].trim_start();
        }
        Ok(Self(std::time::Duration::from_nanos(total)))
    }
}

/// A number of bytes written as `"4MB"`: `B KB MB GB TB` count in 1024, `K M G T` in 1000; a bare number is bytes;
/// `infinity` is the largest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Size(u64);

impl Size {
    /// From bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == u64::MAX {
            return f.write_str("infinity");
        }
        for (unit, shift) in [("TB", 40), ("GB", 30), ("MB", 20), ("KB", 10)] {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not a size; write for example 4096, \"64KB\" or \"4MB\"");
        let text = text.trim();
        if text == "infinity" {
            return Ok(Self(u64::MAX));
        }
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let count: u64 = text[..digits].parse().map_err(|_| bad())?;
        let factor: u64 = match text[digits..].trim() {
            "" | "B" => 1,
            "KB" => 1 << 10,
            "MB" => 1 << 20,
            "GB" => 1 << 30,
            "TB" => 1 << 40,
            "K" => 1_000,
            "M" => 1_000_000,
            "G" => 1_000_000_000,
            "T" => 1_000_000_000_000,
            _ => return Err(bad()),
        };
        count.checked_mul(factor).map(Self).ok_or_else(bad)
    }
}

macro_rules! serde_as_text {
    ($type:ident, $expecting:literal, $number:expr) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl de::Visitor<'_> for Visitor {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                    fn visit_i64<E: de::Error>(self, number: i64) -> Result<$type, E> {
                        let convert: fn(i64) -> Option<$type> = $number;
                        convert(number).ok_or_else(|| E::custom(concat!("expected ", $expecting)))
                    }
                }
                deserializer.deserialize_any(Visitor)
            }
        }
    };
}

serde_as_text!(Duration, "a duration such as \"10s\" or \"1min 30s\"", |n| (n == 0).then(Duration::default));
serde_as_text!(Size, "a size such as 4096 or \"4MB\"", |n| u64::try_from(n).ok().map(Size));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_print() {
        for text in ["1min 30s", "10s", "500ms", "1day", "2h 3min", "1us", "1s 1ms 1us 1ns", "0ns"] {
            assert_eq!(text.parse::<Duration>().unwrap().to_string(), text);
        }
        assert_eq!("90s".parse::<Duration>().unwrap().to_string(), "1min 30s");
        for bad in ["", "s", "10", "10x", "1s 1min", "1s 1s", "99999999999999999999s", "-1s", "1.5s"] {
            assert!(bad.parse::<Duration>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_read_and_print() {
        assert_eq!("4MB".parse::<Size>().unwrap().get(), 4 << 20);
        assert_eq!("4M".parse::<Size>().unwrap().get(), 4_000_000);
        assert_eq!("infinity".parse::<Size>().unwrap().get(), u64::MAX);
        for text in ["4MB", "512KB", "123", "0", "3TB", "infinity"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        for bad in ["", "MB", "4XB", "-4", "99999999999TB"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }
}
