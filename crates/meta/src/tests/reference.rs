//! A file system in memory with the rules as specified, to compare the service with.

use std::collections::BTreeMap;
use std::fmt::Write;

use valor_protocol::status::code;

type Id = u64;
type Answer<T> = Result<T, u16>;

const ROOT: Id = 0;
const READ: u32 = 4;
const WRITE: u32 = 2;
const EXEC: u32 = 1;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    File,
    Dir(BTreeMap<String, Id>),
    Symlink(String),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) perm: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) nlink: u32,
    parent: Id,
}

/// What happens if the new name of a rename exists.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Rule {
    Replace,
    Refuse,
    Exchange,
}

/// A path from the directory of that number; 0 is the root.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Place {
    pub(super) dir: usize,
    pub(super) path: String,
}

/// An operation of a user.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Op {
    Mkdir { uid: u32, path: Place, perm: u32 },
    Create { uid: u32, path: Place, exclusive: bool },
    Symlink { uid: u32, path: Place, target: String },
    Link { uid: u32, old: Place, new: Place },
    Remove { uid: u32, path: Place, recursive: bool },
    Rename { uid: u32, src: Place, dest: Place, rule: Rule },
    Chmod { uid: u32, path: Place, perm: u32 },
    Stat { uid: u32, path: Place, follow: bool },
    List { uid: u32, path: Place },
}

/// What a success tells.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Seen {
    Nothing,
    /// Type letter, permission bits, owner, links.
    Inode(char, u32, u32, u32),
    Names(Vec<String>),
}

pub(super) type Outcome = Answer<Seen>;

struct Found {
    parent: Id,
    /// The last name, behind symlinks.
    name: String,
    node: Option<Id>,
}

/// The file system.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reference {
    nodes: BTreeMap<Id, Node>,
    next: Id,
    /// Directories that operations start at.
    dirs: Vec<Id>,
    /// Removed trees whose links are still counted.
    limbo: Vec<Id>,
}

impl Reference {
    pub(super) fn new() -> Self {
        let root =
            Node { kind: Kind::Dir(BTreeMap::new()), perm: 0o755, uid: 0, gid: 0, nlink: 1, parent: ROOT };
        Self { nodes: BTreeMap::from([(ROOT, root)]), next: 1, dirs: vec![ROOT], limbo: Vec::new() }
    }

    /// Makes a directory in the root that operations can start at.
    pub(super) fn add_start(&mut self, name: &str) {
        self.add(ROOT, name, Kind::Dir(BTreeMap::new()), 0o755, 0);
        self.dirs.push(self.next - 1);
    }

    fn entries(&self, id: Id) -> Answer<&BTreeMap<String, Id>> {
        match self.nodes.get(&id).map(|node| &node.kind) {
            Some(Kind::Dir(entries)) => Ok(entries),
            Some(_) => Err(code::META_NOT_DIRECTORY),
            None => Err(code::META_NOT_FOUND),
        }
    }

    /// Whether something can be added to a directory.
    fn takes(&self, parent: Id) -> Answer<()> {
        if self.nodes[&parent].nlink == 0 { Err(code::META_NOT_FOUND) } else { Ok(()) }
    }

    fn entries_mut(&mut self, id: Id) -> &mut BTreeMap<String, Id> {
        match &mut self.nodes.get_mut(&id).unwrap().kind {
            Kind::Dir(entries) => entries,
            _ => panic!("not a directory"),
        }
    }

    fn is_dir(&self, id: Id) -> bool {
        matches!(self.nodes[&id].kind, Kind::Dir(_))
    }

    fn allowed(&self, id: Id, uid: u32, access: u32) -> Answer<()> {
        let node = &self.nodes[&id];
        let shift = if uid == node.uid {
            6
        } else if uid == node.gid {
            3
        } else {
            0
        };
        if uid == 0 || node.perm >> shift & access == access { Ok(()) } else { Err(code::META_NO_PERMISSION) }
    }

    /// Walks to the last component; `missing` of it and the components behind it are allowed.
    fn walk(&self, uid: u32, start: Id, path: &str, links: &mut u32, depth: u32) -> Answer<(Found, usize)> {
        let mut here = if path.starts_with('/') { ROOT } else { start };
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        assert!(!parts.is_empty());
        for (index, part) in parts.iter().enumerate() {
            let entries = self.entries(here)?;
            self.allowed(here, uid, EXEC)?;
            let node =
                if *part == ".." { Some(self.nodes[&here].parent) } else { entries.get(*part).copied() };
            let rest = parts.len() - index - 1;
            let found = Found { parent: here, name: (*part).to_owned(), node };
            let Some(node) = node else { return Ok((found, rest + 1)) };
            if rest == 0 {
                return Ok((found, 0));
            }
            here = match &self.nodes[&node].kind {
                Kind::Symlink(_) => {
                    let end = self.follow(uid, here, node, links, depth)?;
                    end.node.ok_or(code::META_NOT_FOUND)?
                }
                _ => node,
            };
            if !self.is_dir(here) {
                return Err(code::META_NOT_DIRECTORY);
            }
        }
        unreachable!()
    }

    fn follow(&self, uid: u32, mut parent: Id, mut link: Id, links: &mut u32, depth: u32) -> Answer<Found> {
        if depth >= 4 {
            return Err(code::META_TOO_MANY_SYMLINKS);
        }
        loop {
            *links += 1;
            if *links > 10 {
                return Err(code::META_TOO_MANY_SYMLINKS);
            }
            let Kind::Symlink(target) = &self.nodes[&link].kind else { unreachable!() };
            let (found, missing) = self.walk(uid, parent, target, links, depth + 1)?;
            if missing > 1 {
                return Err(code::META_NOT_FOUND);
            }
            match found.node {
                Some(node) if matches!(self.nodes[&node].kind, Kind::Symlink(_)) => {
                    (parent, link) = (found.parent, node);
                }
                _ => return Ok(found),
            }
        }
    }

    fn find(&self, uid: u32, place: &Place, follow: bool) -> Answer<Found> {
        let mut links = 0;
        let (found, missing) = self.walk(uid, self.dirs[place.dir], &place.path, &mut links, 0)?;
        if missing > 1 {
            return Err(code::META_NOT_FOUND);
        }
        match found.node {
            Some(node) if follow && matches!(self.nodes[&node].kind, Kind::Symlink(_)) => {
                self.follow(uid, found.parent, node, &mut links, 0)
            }
            _ => Ok(found),
        }
    }

    fn node(&self, uid: u32, path: &Place, follow: bool) -> Answer<Id> {
        self.find(uid, path, follow)?.node.ok_or(code::META_NOT_FOUND)
    }

    fn add(&mut self, parent: Id, name: &str, kind: Kind, perm: u32, uid: u32) -> Seen {
        let node = Node { kind, perm, uid, gid: uid, nlink: 1, parent };
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, node);
        self.entries_mut(parent).insert(name.to_owned(), id);
        self.seen(id)
    }

    fn seen(&self, id: Id) -> Seen {
        let node = &self.nodes[&id];
        let letter = match node.kind {
            Kind::File => 'f',
            Kind::Dir(_) => 'd',
            Kind::Symlink(_) => 'l',
        };
        Seen::Inode(letter, node.perm, node.uid, node.nlink)
    }

    fn sticky(&self, parent: Id, node: Id, uid: u32) -> Answer<()> {
        let (parent, node) = (&self.nodes[&parent], &self.nodes[&node]);
        let forbids = parent.perm & 0o1000 != 0 && uid != 0 && uid != parent.uid && uid != node.uid;
        if forbids { Err(code::META_NO_PERMISSION) } else { Ok(()) }
    }

    /// Takes a link of a file or symlink away.
    fn unlink(&mut self, id: Id) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.nlink -= 1;
        if node.nlink == 0 {
            self.nodes.remove(&id);
        }
    }

    /// Performs an operation.
    pub(super) fn apply(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Mkdir { uid, path, perm } => {
                let (found, missing) = self.walk(*uid, self.dirs[path.dir], &path.path, &mut 0, 0)?;
                match missing {
                    0 => return Err(code::META_EXISTS),
                    1 => {}
                    _ => return Err(code::META_NOT_FOUND),
                }
                self.allowed(found.parent, *uid, WRITE)?;
                self.takes(found.parent)?;
                Ok(self.add(found.parent, &found.name, Kind::Dir(BTreeMap::new()), *perm, *uid))
            }
            Op::Create { uid, path, exclusive } => self.create(*uid, path, *exclusive),
            Op::Symlink { uid, path, target } => {
                let found = self.find(*uid, path, false)?;
                if found.node.is_some() {
                    return Err(code::META_EXISTS);
                }
                self.allowed(found.parent, *uid, WRITE)?;
                self.takes(found.parent)?;
                Ok(self.add(found.parent, &found.name, Kind::Symlink(target.clone()), 0o777, *uid))
            }
            Op::Link { uid, old, new } => self.link(*uid, old, new),
            Op::Remove { uid, path, recursive } => self.remove(*uid, path, *recursive),
            Op::Rename { uid, src, dest, rule } => self.rename(*uid, src, dest, *rule),
            Op::Chmod { uid, path, perm } => {
                let id = self.node(*uid, path, true)?;
                let node = self.nodes.get_mut(&id).unwrap();
                if node.perm != *perm && *uid != 0 && *uid != node.uid {
                    return Err(code::META_NO_PERMISSION);
                }
                node.perm = *perm;
                Ok(self.seen(id))
            }
            Op::Stat { uid, path, follow } => self.node(*uid, path, *follow).map(|id| self.seen(id)),
            Op::List { uid, path } => {
                let id = self.node(*uid, path, true)?;
                let names = self.entries(id)?.keys().cloned().collect();
                self.takes(id)?;
                self.allowed(id, *uid, READ)?;
                Ok(Seen::Names(names))
            }
        }
    }

    fn create(&mut self, uid: u32, path: &Place, exclusive: bool) -> Outcome {
        let found = self.find(uid, path, !exclusive)?;
        let Some(id) = found.node else {
            self.takes(found.parent)?;
            self.allowed(found.parent, uid, WRITE)?;
            return Ok(self.add(found.parent, &found.name, Kind::File, 0o644, uid));
        };
        if exclusive {
            return Err(code::META_EXISTS);
        }
        if self.is_dir(id) {
            return Err(code::META_IS_DIRECTORY);
        }
        self.allowed(id, uid, READ)?;
        Ok(self.seen(id))
    }

    fn link(&mut self, uid: u32, old: &Place, new: &Place) -> Outcome {
        let found = self.find(uid, new, false)?;
        if found.node.is_some() {
            return Err(code::META_EXISTS);
        }
        let id = self.node(uid, old, false)?;
        self.allowed(found.parent, uid, WRITE)?;
        self.takes(found.parent)?;
        if self.is_dir(id) {
            return Err(code::META_IS_DIRECTORY);
        }
        self.nodes.get_mut(&id).unwrap().nlink += 1;
        self.entries_mut(found.parent).insert(found.name, id);
        Ok(self.seen(id))
    }

    fn remove(&mut self, uid: u32, path: &Place, recursive: bool) -> Outcome {
        let found = self.find(uid, path, false)?;
        let id = found.node.ok_or(code::META_NOT_FOUND)?;
        self.allowed(found.parent, uid, WRITE)?;
        self.sticky(found.parent, id, uid)?;
        if self.is_dir(id) {
            if !self.entries(id)?.is_empty() {
                if !recursive {
                    return Err(code::META_NOT_EMPTY);
                }
                if uid != 0 && uid != self.nodes[&id].uid {
                    return Err(code::META_NO_PERMISSION);
                }
                self.check_tree(id, uid)?;
                self.nodes.get_mut(&id).unwrap().nlink = 0;
                self.limbo.push(id);
            } else {
                self.nodes.remove(&id);
            }
        } else {
            self.unlink(id);
        }
        self.entries_mut(found.parent).remove(&found.name);
        Ok(Seen::Nothing)
    }

    fn check_tree(&self, id: Id, uid: u32) -> Answer<()> {
        let node = &self.nodes[&id];
        if uid != 0 && node.perm & 0o1000 != 0 && uid != node.uid {
            return Err(code::META_NO_PERMISSION);
        }
        self.allowed(id, uid, READ | WRITE | EXEC)?;
        let below = self.entries(id)?.values().filter(|id| self.is_dir(**id));
        below.copied().try_for_each(|id| self.check_tree(id, uid))
    }

    fn check_move(&self, id: Id, parent: Id) -> Answer<()> {
        let mut above = vec![parent];
        while let Some(last) = above.last().copied().filter(|last| *last != ROOT) {
            above.push(self.nodes.get(&last).ok_or(code::META_NOT_FOUND)?.parent);
        }
        for ancestor in above {
            let node = self.nodes.get(&ancestor).ok_or(code::META_NOT_FOUND)?;
            if ancestor == id {
                return Err(code::INVALID_ARG);
            }
            if node.nlink == 0 {
                return Err(code::META_NOT_FOUND);
            }
        }
        Ok(())
    }

    fn rename(&mut self, uid: u32, src: &Place, dest: &Place, rule: Rule) -> Outcome {
        let src = self.find(uid, src, false)?;
        let dest = self.find(uid, dest, false)?;
        let id = src.node.ok_or(code::META_NOT_FOUND)?;
        let same = (src.parent, &src.name) == (dest.parent, &dest.name);
        match (dest.node, rule) {
            (None, Rule::Exchange) => return Err(code::META_NOT_FOUND),
            (Some(_), Rule::Refuse) => return Err(code::META_EXISTS),
            (Some(old), Rule::Replace) if !same => {
                if self.is_dir(old) && !self.entries(old)?.is_empty() {
                    return Err(code::META_NOT_EMPTY);
                }
                if self.is_dir(id) && !self.is_dir(old) {
                    return Err(code::META_NOT_DIRECTORY);
                }
            }
            _ => {}
        }
        if same {
            return Ok(self.seen(id));
        }
        if self.is_dir(id) {
            self.check_move(id, dest.parent)?;
        }
        if let (Rule::Exchange, Some(old)) = (rule, dest.node)
            && self.is_dir(old)
        {
            self.check_move(old, src.parent)?;
        }
        for end in [&src, &dest] {
            self.allowed(end.parent, uid, WRITE)?;
            if let Some(node) = end.node {
                self.sticky(end.parent, node, uid)?;
            }
        }
        self.takes(dest.parent)?;
        self.entries_mut(src.parent).remove(&src.name);
        if let Some(old) = dest.node {
            if rule == Rule::Exchange {
                self.nodes.get_mut(&old).unwrap().parent = src.parent;
                self.entries_mut(src.parent).insert(src.name, old);
            } else if self.is_dir(old) {
                self.nodes.remove(&old);
            } else {
                self.unlink(old);
            }
        }
        self.nodes.get_mut(&id).unwrap().parent = dest.parent;
        self.entries_mut(dest.parent).insert(dest.name, id);
        Ok(self.seen(id))
    }

    /// Counts the links of removed trees no more, as after garbage collection.
    pub(super) fn collect(&mut self) {
        while let Some(id) = self.limbo.pop() {
            let below: Vec<Id> = self.entries(id).unwrap().values().copied().collect();
            for child in below {
                if self.is_dir(child) {
                    self.limbo.push(child);
                } else {
                    self.unlink(child);
                }
            }
            self.nodes.remove(&id);
        }
    }

    /// The tree as text, with the first name of each inode in place of its id.
    pub(super) fn dump(&self) -> String {
        let mut text = String::new();
        self.dump_below(ROOT, "", &mut BTreeMap::new(), &mut text);
        text
    }

    fn dump_below(&self, id: Id, path: &str, first: &mut BTreeMap<Id, String>, text: &mut String) {
        for (name, id) in self.entries(id).unwrap() {
            let path = format!("{path}/{name}");
            let same = first.entry(*id).or_insert_with(|| path.clone()).clone();
            let node = &self.nodes[id];
            let what = match &node.kind {
                Kind::File => format!("file {same}"),
                Kind::Symlink(target) => format!("symlink {same} {target}"),
                Kind::Dir(_) => "dir".to_owned(),
            };
            writeln!(text, "{path} {what} {:o} {} {} {}", node.perm, node.uid, node.gid, node.nlink).unwrap();
            if self.is_dir(*id) {
                self.dump_below(*id, &path, first, text);
            }
        }
    }
}
