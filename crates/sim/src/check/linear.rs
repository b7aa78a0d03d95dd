//! Linearizability of a register (Wing and Gong's search with Lowe's memory of configurations seen).
//!
//! A history is linearizable if every operation can be given a moment between its call and its return so that each read
//! returns what the last write before it wrote. A write whose outcome is unknown never returns: it may take effect at
//! any later moment, or never.

use std::collections::HashSet;

/// Configurations looked at before the search is given up.
const CONFIGURATIONS_MAX: usize = 300_000;

/// What an operation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Wrote a value.
    Write(u64),
    /// Found a value; 0 is the initial one.
    Read(u64),
}

/// An operation of a history. Times are positions in the order of all calls and returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    /// Who did it.
    pub client: u32,
    /// What.
    pub action: Action,
    /// When it was called.
    pub call: u64,
    /// When it returned; `u64::MAX` if its outcome is unknown.
    pub ret: u64,
}

/// A configuration of the search: operations before `prefix` and those in `beyond` have their moments.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Configuration {
    prefix: u32,
    beyond: Vec<u32>,
    value: u64,
}

/// Checks a history; the error shows the operations at which every order fails.
///
/// # Errors
/// A description for the reader.
pub fn check(history: &[Op]) -> Result<(), String> {
    let read: HashSet<u64> = history
        .iter()
        .filter_map(|op| match op.action {
            Action::Read(value) => Some(value),
            Action::Write(_) => None,
        })
        .collect();
    // A write that never returned and was never seen may as well not have happened.
    let matters = |op: &&Op| match op.action {
        Action::Write(value) => op.ret != u64::MAX || read.contains(&value),
        Action::Read(_) => op.ret != u64::MAX,
    };
    let mut ops: Vec<Op> = history.iter().filter(matters).copied().collect();
    ops.sort_by_key(|op| op.call);
    let deepest = Configuration { prefix: 0, beyond: Vec::new(), value: 0 };
    Search { ops, seen: HashSet::new(), deepest }.run()
}

struct Search {
    ops: Vec<Op>,
    seen: HashSet<Configuration>,
    /// The configuration with the most operations that got their moments.
    deepest: Configuration,
}

impl Search {
    fn run(mut self) -> Result<(), String> {
        let mut stack = vec![Configuration { prefix: 0, beyond: Vec::new(), value: 0 }];
        while let Some(mut at) = stack.pop() {
            self.take_reads(&mut at);
            if self.is_done(&at) {
                return Ok(());
            }
            if !self.seen.insert(at.clone()) {
                continue;
            }
            if at.len() > self.deepest.len() {
                self.deepest = at.clone();
            }
            if self.seen.len() > CONFIGURATIONS_MAX {
                return Err(format!(
                    "undecided after {CONFIGURATIONS_MAX} configurations: {}",
                    self.explain()
                ));
            }
            let candidates = self.candidates(&at);
            let is_wanted = |value| {
                candidates.iter().any(|index| self.ops[*index as usize].action == Action::Read(value))
            };
            for &index in &candidates {
                let op = &self.ops[index as usize];
                if let Action::Write(value) = op.action {
                    // One that need not happen helps only the reads right after it.
                    if op.ret == u64::MAX && !is_wanted(value) {
                        continue;
                    }
                    let mut next = at.clone();
                    next.take(index);
                    next.value = value;
                    stack.push(next);
                }
            }
        }
        Err(self.explain())
    }

    /// Whether nothing is left that must have happened.
    fn is_done(&self, at: &Configuration) -> bool {
        let rest = &self.ops[at.prefix as usize..];
        let mut left = (at.prefix..).zip(rest);
        left.all(|(index, op)| op.ret == u64::MAX || at.beyond.binary_search(&index).is_ok())
    }

    /// Operations that may come next: called before any other open operation returned.
    fn candidates(&self, at: &Configuration) -> Vec<u32> {
        let mut found = Vec::new();
        let mut first_return = u64::MAX;
        for index in at.prefix..self.ops.len() as u32 {
            let op = &self.ops[index as usize];
            if op.call > first_return {
                break;
            }
            if at.beyond.binary_search(&index).is_err() {
                first_return = first_return.min(op.ret);
                found.push(index);
            }
        }
        found.retain(|index| self.ops[*index as usize].call <= first_return);
        found
    }

    /// Reads of the present value may always come at once.
    fn take_reads(&self, at: &mut Configuration) {
        loop {
            let value = at.value;
            let reads: Vec<u32> = self
                .candidates(at)
                .into_iter()
                .filter(|index| self.ops[*index as usize].action == Action::Read(value))
                .collect();
            if reads.is_empty() {
                return;
            }
            reads.into_iter().for_each(|index| at.take(index));
        }
    }

    fn explain(&self) -> String {
        let at = &self.deepest;
        let open = (at.prefix..).zip(self.ops.iter().skip(at.prefix as usize));
        let open = open.filter(|(index, _)| at.beyond.binary_search(index).is_err());
        let shown = open.skip_while(|(_, op)| op.ret == u64::MAX).take(14);
        let lines: Vec<String> = shown
            .map(|(_, op)| {
                let ret = if op.ret == u64::MAX { "?".to_owned() } else { op.ret.to_string() };
                format!("    {}..{ret} client {} {:x?}", op.call, op.client, op.action)
            })
            .collect();
        format!(
            "no order of {} operations explains them; {} have one, which leads to {:x}, but not:\n{}",
            self.ops.len(),
            at.len(),
            at.value,
            lines.join("\n")
        )
    }
}

impl Configuration {
    /// Operations that have their moments.
    fn len(&self) -> usize {
        self.prefix as usize + self.beyond.len()
    }

    fn take(&mut self, index: u32) {
        match self.beyond.binary_search(&index) {
            Ok(_) => return,
            Err(at) => self.beyond.insert(at, index),
        }
        let whole = self.beyond.iter().zip(self.prefix..).take_while(|(have, want)| *have == want).count();
        self.beyond.drain(..whole);
        self.prefix += whole as u32;
    }
}

#[cfg(test)]
#[path = "linear_tests.rs"]
mod tests;
