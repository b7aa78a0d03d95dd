//! Which channels of the table are a chain's, so that filling one target costs what that chain's clients cost.

use std::collections::{BTreeMap, HashMap, HashSet};

use valor_protocol::{ChainId, ChainVersion, ChannelId, Uuid};

use super::Key;

/// The table's keys by chain.
#[derive(Debug, Default)]
pub(super) struct ByChain(HashMap<ChainId, Channels>);

#[derive(Debug, Default)]
struct Channels {
    known: HashSet<(Uuid, ChannelId)>,
    /// Number of updates being worked on, by the chain version that they came under.
    running: BTreeMap<ChainVersion, usize>,
}

impl ByChain {
    /// A channel comes into the table.
    pub(super) fn add(&mut self, key: Key) {
        self.0.entry(key.chain).or_default().known.insert((key.client, key.channel));
    }

    /// A channel on which nothing runs leaves the table.
    pub(super) fn remove(&mut self, key: Key) {
        if let Some(channels) = self.0.get_mut(&key.chain) {
            channels.known.remove(&(key.client, key.channel));
            if channels.known.is_empty() {
                self.0.remove(&key.chain);
            }
        }
    }

    /// An update of a known channel is worked on from now on.
    pub(super) fn begins(&mut self, chain: ChainId, chain_ver: ChainVersion) {
        *self.0.entry(chain).or_default().running.entry(chain_ver).or_default() += 1;
    }

    /// It is no longer.
    pub(super) fn ends(&mut self, chain: ChainId, chain_ver: ChainVersion) {
        let Some(channels) = self.0.get_mut(&chain) else { return };
        if let Some(number) = channels.running.get_mut(&chain_ver) {
            *number -= 1;
            if *number == 0 {
                channels.running.remove(&chain_ver);
            }
        }
    }

    /// The chain's channels.
    pub(super) fn channels(&self, chain: ChainId) -> impl Iterator<Item = Key> + '_ {
        let known = self.0.get(&chain).into_iter().flat_map(|channels| &channels.known);
        known.map(move |(client, channel)| Key { client: *client, chain, channel: *channel })
    }

    /// The oldest chain version that an update came under which is being worked on.
    pub(super) fn oldest_running(&self, chain: ChainId) -> Option<ChainVersion> {
        self.0.get(&chain)?.running.first_key_value().map(|(chain_ver, _)| *chain_ver)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.values().map(|channels| channels.known.len()).sum()
    }
}
