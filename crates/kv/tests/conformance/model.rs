//! Random interleaved transactions against a map per version, with every outcome predicted.

use std::collections::{BTreeMap, BTreeSet};

use valor_kv::{KvError, Transaction};

use crate::engines::Fixture;
use crate::random::{Random, seed_from_env};

/// Keys are numbers below this.
const KEYS: u64 = 40;
const STEPS: usize = 3000;
const OPEN_MAX: usize = 6;

fn name(key: u64) -> String {
    format!("{key:02}")
}

fn number(name: &[u8]) -> u64 {
    std::str::from_utf8(name).unwrap().parse().unwrap()
}

type Map = BTreeMap<u64, String>;

/// A transaction and what the model knows of it.
struct Running {
    tx: Transaction,
    /// Commits the reads may have missed begin at this index; set by the first read.
    began: Option<usize>,
    /// The database at the read version with the own writes.
    view: Map,
    writes: BTreeMap<u64, Option<String>>,
    reads: BTreeSet<u64>,
    written: BTreeSet<u64>,
}

#[derive(Default)]
struct Model {
    map: Map,
    /// Keys written by each commit.
    commits: Vec<BTreeSet<u64>>,
}

pub(crate) async fn random_transactions_agree_with_a_model(fixture: &mut Fixture) {
    let seed = seed_from_env(0x5eed_0003);
    println!("seed {seed:#x} (KV_SEED)");
    let mut random = Random::new(seed);
    let mut model = Model::default();
    let mut running: Vec<Running> = Vec::new();
    let mut outcomes = [0; 2];
    for step in 0..STEPS {
        if running.len() < OPEN_MAX && random.below(3) == 0 {
            running.push(Running {
                tx: fixture.db.begin(),
                began: None,
                view: Map::new(),
                writes: BTreeMap::new(),
                reads: BTreeSet::new(),
                written: BTreeSet::new(),
            });
        }
        if running.is_empty() {
            continue;
        }
        let index = random.below(running.len() as u64) as usize;
        match random.below(10) {
            0..4 => running[index].read(&model, &mut random).await,
            4..8 => running[index].write(&mut random),
            8 => {
                let conflict = running.swap_remove(index).finish(&mut model, step).await;
                outcomes[usize::from(conflict)] += 1;
            }
            _ if random.below(20) == 0 => {
                // Reopening ends what runs.
                running.clear();
                fixture.reopen().await;
                model.check_whole(fixture).await;
            }
            _ => {}
        }
    }
    running.clear();
    model.check_whole(fixture).await;
    assert!(outcomes.iter().all(|count| *count > 10), "commits and conflicts: {outcomes:?}");
}

impl Model {
    async fn check_whole(&self, fixture: &Fixture) {
        let items = fixture.db.begin().get_range("", "a", usize::MAX, false).await.unwrap().items;
        let stored: Map = items
            .iter()
            .map(|entry| (number(&entry.key), String::from_utf8(entry.value.to_vec()).unwrap()))
            .collect();
        assert_eq!(stored, self.map);
    }
}

impl Running {
    /// The first read fixes the read version.
    fn begin(&mut self, model: &Model) {
        if self.began.is_none() {
            self.began = Some(model.commits.len());
            self.view = model.map.clone();
            for (key, value) in &self.writes {
                match value {
                    Some(value) => self.view.insert(*key, value.clone()),
                    None => self.view.remove(key),
                };
            }
        }
    }

    async fn read(&mut self, model: &Model, random: &mut Random) {
        let snapshot = random.below(4) == 0;
        if random.below(2) == 0 {
            let key = random.below(KEYS);
            let own = self.writes.contains_key(&key);
            if !own {
                self.begin(model);
            }
            let value =
                if snapshot { self.tx.snapshot_get(name(key)).await } else { self.tx.get(name(key)).await };
            let expected = match self.writes.get(&key) {
                Some(value) => value.clone(),
                None => self.view.get(&key).cloned(),
            };
            assert_eq!(value.unwrap().map(|value| String::from_utf8(value.to_vec()).unwrap()), expected);
            if !own && !snapshot {
                self.reads.insert(key);
            }
            return;
        }
        self.begin(model);
        let (begin, end) = random_range(random);
        let limit = 1 + random.below(12) as usize;
        let reverse = random.below(2) == 0;
        let result = if snapshot {
            self.tx.snapshot_get_range(name(begin), name(end), limit, reverse).await
        } else {
            self.tx.get_range(name(begin), name(end), limit, reverse).await
        };
        let found: Vec<u64> = result.unwrap().items.iter().map(|entry| number(&entry.key)).collect();
        let in_range = self.view.range(begin..end).map(|(key, _)| *key);
        let expected: Vec<u64> =
            if reverse { in_range.rev().take(limit).collect() } else { in_range.take(limit).collect() };
        assert_eq!(found, expected);
        if !snapshot {
            match expected.last() {
                Some(last) if expected.len() == limit && reverse => self.reads.extend(*last..end),
                Some(last) if expected.len() == limit => self.reads.extend(begin..=*last),
                _ => self.reads.extend(begin..end),
            }
        }
    }

    fn write(&mut self, random: &mut Random) {
        match random.below(4) {
            0 => {
                let (begin, end) = random_range(random);
                self.tx.clear_range(name(begin), name(end));
                (begin..end).for_each(|key| self.note_write(key, None));
            }
            1 => {
                let key = random.below(KEYS);
                self.tx.clear(name(key));
                self.note_write(key, None);
            }
            _ => {
                let key = random.below(KEYS);
                // Sometimes large, so that the embedded engine's memtables fill.
                let value = format!("{:x}", random.next()).repeat(if random.below(8) == 0 { 500 } else { 1 });
                self.tx.set(name(key), &value);
                self.note_write(key, Some(value));
            }
        }
    }

    fn note_write(&mut self, key: u64, value: Option<String>) {
        match &value {
            Some(value) => self.view.insert(key, value.clone()),
            None => self.view.remove(&key),
        };
        self.writes.insert(key, value);
        self.written.insert(key);
    }

    /// Commits; returns whether it conflicted, as predicted.
    async fn finish(self, model: &mut Model, step: usize) -> bool {
        let result = self.tx.commit().await;
        let meets = self
            .began
            .is_some_and(|began| model.commits[began..].iter().any(|keys| !keys.is_disjoint(&self.reads)));
        if !self.written.is_empty() && meets {
            assert_eq!(result, Err(KvError::Conflict), "step {step}");
            return true;
        }
        result.unwrap_or_else(|error| panic!("step {step}: {error}"));
        for (key, value) in self.writes {
            match value {
                Some(value) => model.map.insert(key, value),
                None => model.map.remove(&key),
            };
        }
        model.commits.push(self.written);
        false
    }
}

fn random_range(random: &mut Random) -> (u64, u64) {
    let begin = random.below(KEYS);
    (begin, begin + 1 + random.below(KEYS - begin))
}
