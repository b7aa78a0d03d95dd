//! Paths taken apart as 3FS does (boost path iteration).
//!
//! A path is bytes. Repeated separators count once, a trailing one stands for `.` (so that the name before it must be
//! a directory), and only the first component can be the root.

use bstr::{BStr, BString};

/// One step of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Component<'a> {
    /// The leading `/`.
    Root,
    /// `.` or a trailing separator.
    Dot,
    /// `..`.
    DotDot,
    /// A name without separators, not empty.
    Name(&'a BStr),
}

impl<'a> Component<'a> {
    /// The component as text of a path.
    pub(crate) fn as_bytes(self) -> &'a [u8] {
        match self {
            Self::Root => b"/",
            Self::Dot => b".",
            Self::DotDot => b"..",
            Self::Name(name) => name,
        }
    }
}

/// Iterates over a path's components; `clone` remembers a position.
#[derive(Debug, Clone)]
pub(crate) struct Components<'a> {
    rest: &'a [u8],
    start: bool,
    trailing: bool,
}

/// The components of `path`.
pub(crate) fn components(path: &[u8]) -> Components<'_> {
    Components { rest: path, start: true, trailing: false }
}

impl<'a> Iterator for Components<'a> {
    type Item = Component<'a>;

    fn next(&mut self) -> Option<Component<'a>> {
        if self.start {
            self.start = false;
            if self.rest.first() == Some(&b'/') {
                self.skip_separators();
                return Some(Component::Root);
            }
        }
        if self.rest.is_empty() {
            return std::mem::take(&mut self.trailing).then_some(Component::Dot);
        }
        let end = self.rest.iter().position(|byte| *byte == b'/').unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        self.trailing = !rest.is_empty();
        self.skip_separators();
        Some(match name {
            b"." => Component::Dot,
            b".." => Component::DotDot,
            _ => Component::Name(BStr::new(name)),
        })
    }
}

impl Components<'_> {
    fn skip_separators(&mut self) {
        let names = self.rest.iter().position(|byte| *byte != b'/').unwrap_or(self.rest.len());
        self.rest = &self.rest[names..];
    }

    /// True if nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.clone().next().is_none()
    }
}

/// The last component as a name, if the path ends in one that an entry can have.
pub(crate) fn file_name(path: &[u8]) -> Option<&BStr> {
    match components(path).last() {
        Some(Component::Name(name)) => Some(name),
        _ => None,
    }
}

/// True if the path is more than a single name.
pub(crate) fn has_parent(path: &[u8]) -> bool {
    let mut parts = components(path);
    parts.next() == Some(Component::Root) || parts.next().is_some()
}

/// The way a lookup took, for `getRealPath`.
#[derive(Debug, Default, Clone)]
pub(crate) struct Trace {
    absolute: bool,
    names: Vec<BString>,
}

impl Trace {
    /// Starts again at the root.
    pub(crate) fn restart(&mut self) {
        self.absolute = true;
        self.names.clear();
    }

    /// Adds a component.
    pub(crate) fn push(&mut self, name: &[u8]) {
        self.names.push(BString::from(name));
    }

    /// Takes the last component away.
    pub(crate) fn pop(&mut self) {
        self.names.pop();
    }

    /// The path without `.`, and without `name/..`; `.` for an empty one.
    pub(crate) fn simplified(&self) -> BString {
        let mut kept: Vec<&[u8]> = Vec::with_capacity(self.names.len());
        for name in &self.names {
            match name.as_slice() {
                b"." => {}
                b".." if kept.last().is_some_and(|last| *last != b"..") => {
                    kept.pop();
                }
                b".." if self.absolute => {}
                other => kept.push(other),
            }
        }
        let mut path = if self.absolute { b"/".to_vec() } else { Vec::new() };
        path.extend_from_slice(&kept.join(&b'/'));
        if path.is_empty() { BString::from(".") } else { BString::from(path) }
    }
}

/// `parent/name`, where an empty parent gives the name and a root parent an absolute path.
pub(crate) fn join(parent: &[u8], name: &[u8]) -> BString {
    let mut path = BString::from(parent);
    if !path.is_empty() && path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(path: &str) -> Vec<String> {
        components(path.as_bytes()).map(|c| String::from_utf8_lossy(c.as_bytes()).into_owned()).collect()
    }

    #[test]
    fn paths_come_apart_like_boosts() {
        assert_eq!(texts("a//b/./.."), ["a", "b", ".", ".."]);
        assert_eq!(texts("/a/"), ["/", "a", "."]);
        assert_eq!(texts("/"), ["/"]);
        assert_eq!(texts("//a"), ["/", "a"]);
        assert_eq!(texts("a///"), ["a", "."]);
        assert!(texts("").is_empty());
    }

    #[test]
    fn only_names_can_be_created() {
        for (path, name) in
            [("a", Some("a")), ("x/y", Some("y")), ("/z", Some("z")), ("a/", None), ("a/..", None)]
        {
            assert_eq!(file_name(path.as_bytes()).map(ToString::to_string).as_deref(), name, "{path}");
        }
    }

    #[test]
    fn parents_are_seen() {
        for (path, parent) in [("a", false), ("./a", true), ("/a", true), ("a/b", true), ("", false)] {
            assert_eq!(has_parent(path.as_bytes()), parent, "{path}");
        }
    }

    #[test]
    fn traces_are_simplified() {
        let trace = |absolute, names: &[&str]| {
            let names = names.iter().map(|name| BString::from(*name)).collect();
            Trace { absolute, names }.simplified().to_string()
        };
        assert_eq!(trace(false, &["..", "b", ".", "file1"]), "../b/file1");
        assert_eq!(trace(true, &["..", "a", "b", "..", "c"]), "/a/c");
        assert_eq!(trace(false, &["a", ".."]), ".");
        assert_eq!(trace(false, &["..", ".."]), "../..");
        assert_eq!(trace(true, &[]), "/");
    }

    #[test]
    fn random_paths_never_panic_and_join_back() {
        let mut seed = 0x1234_5678_9abc_def0_u64;
        for _ in 0..2000 {
            let mut path = Vec::new();
            for _ in 0..(seed % 12) {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                path.push(b"/.ab"[(seed >> 33) as usize % 4]);
            }
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let parts: Vec<_> = components(&path).collect();
            let mut rebuilt = BString::default();
            for part in &parts {
                rebuilt = join(&rebuilt, part.as_bytes());
            }
            let again: Vec<_> = components(&rebuilt).collect();
            assert_eq!(parts, again, "{:?}", BStr::new(&path));
        }
    }
}
