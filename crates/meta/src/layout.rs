//! Layouts of new files: which chains they get (`src/meta/components/ChainAllocator.h`).

use std::collections::HashMap;

use parking_lot::Mutex;
use valor_env::Env;
use valor_protocol::ChainTableId;
use valor_protocol::layout::find_safe_seed;
use valor_protocol::meta::{ChainRange, Chains, Layout, Shuffle};
use valor_protocol::status::code;
use valor_wire::Status;

use crate::cluster::{ChainState, Cluster};
use crate::error::status;

/// A directory counter that no file has used yet.
pub(crate) const COUNTER_UNSET: u32 = u32::MAX;

fn invalid(reason: impl Into<String>) -> Status {
    status(code::META_INVALID_FILE_LAYOUT, reason)
}

/// Chooses chains for new files.
pub(crate) struct ChainAllocator {
    env: Env,
    /// Next chain per table and stripe size.
    next: Mutex<HashMap<(ChainTableId, u32), u32>>,
}

impl ChainAllocator {
    pub(crate) fn new(env: Env) -> Self {
        Self { env, next: Mutex::new(HashMap::new()) }
    }

    /// Whether a layout can be used: its fields fit, and its chains exist.
    ///
    /// # Errors
    /// 3013 `InvalidFileLayout`.
    pub(crate) fn check(&self, cluster: &dyn Cluster, layout: &Layout) -> Result<(), Status> {
        layout.valid(true)?;
        if layout.is_empty() {
            return Ok(());
        }
        for index in layout.chain_index_list()? {
            let reference = format!("chain {index} of table {}@{}", layout.table_id, layout.table_version);
            match cluster.chain(layout.table_id, layout.table_version, index) {
                ChainState::Usable => {}
                ChainState::Unknown => return Err(invalid(format!("{reference} not found"))),
                ChainState::Empty => return Err(invalid(format!("{reference} has no target"))),
            }
        }
        Ok(())
    }

    /// The layout of a new file: the given one, with chains chosen if it has none. `counter` is the directory's own
    /// counter, if it has one; else files take turns over the whole table.
    ///
    /// # Errors
    /// 3013 `InvalidFileLayout`.
    pub(crate) fn allocate(
        &self,
        cluster: &dyn Cluster,
        mut layout: Layout,
        counter: Option<&mut u32>,
    ) -> Result<Layout, Status> {
        self.check(cluster, &layout)?;
        if !layout.is_empty() {
            return Ok(layout);
        }
        let (table, stripe) = (layout.table_id, layout.stripe_size);
        let Some((version, count)) =
            cluster.chain_table(table, layout.table_version).filter(|(v, _)| v.0 != 0)
        else {
            return Err(invalid(format!("chain table {table}@{} not found", layout.table_version)));
        };
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if count < stripe || count == 0 {
            return Err(invalid(format!("stripe of {stripe} in table {table} of {count} chains")));
        }
        let base_index = match counter {
            Some(counter) => self.take_turn(counter, count, stripe),
            None => self.take_turn(
                self.next.lock().entry((table, stripe)).or_insert(COUNTER_UNSET),
                count,
                stripe,
            ),
        };
        let Some(seed) = find_safe_seed(stripe, || self.env.random_u64()) else {
            return Err(status(code::INVALID_ARG, "no shuffle seed found"));
        };
        layout.table_version = version;
        layout.chains =
            Chains::ChainRange(ChainRange { base_index, shuffle: Shuffle::StdShuffleMt19937, seed });
        layout.valid(false)?;
        Ok(layout)
    }

    /// Index (from 1) of the first chain, moving the counter on; starts at a random multiple of the stripe.
    fn take_turn(&self, counter: &mut u32, count: u32, stripe: u32) -> u32 {
        if *counter == COUNTER_UNSET {
            *counter = (self.env.random_u64() % u64::from(count)) as u32 / stripe * stripe;
        }
        let first = *counter % count;
        *counter = ((u64::from(*counter) + u64::from(stripe)) % u64::from(count)) as u32;
        first + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestCluster;
    use valor_protocol::ChainTableVersion;

    fn base(layout: &Layout) -> u32 {
        match layout.chains {
            Chains::ChainRange(range) => range.base_index,
            _ => panic!("no range"),
        }
    }

    #[test]
    fn files_take_turns_over_the_table() {
        let cluster = TestCluster::with_chains(6);
        let allocator = ChainAllocator::new(Env::real());
        let empty = Layout::empty(ChainTableId(1), 4096, 2);
        let bases: Vec<_> =
            (0..6).map(|_| base(&allocator.allocate(&cluster, empty.clone(), None).unwrap())).collect();
        let mut sorted = bases[..3].to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, [1, 3, 5], "{bases:?}");
        assert_eq!(bases[..3], bases[3..]);
        let layout = allocator.allocate(&cluster, empty, None).unwrap();
        assert_eq!(layout.table_version, ChainTableVersion(1));
        assert!(allocator.check(&cluster, &layout).is_ok());
    }

    #[test]
    fn a_directory_counter_is_moved_on() {
        let cluster = TestCluster::with_chains(5);
        let allocator = ChainAllocator::new(Env::real());
        let mut counter = 4;
        let empty = Layout::empty(ChainTableId(1), 4096, 3);
        assert_eq!(base(&allocator.allocate(&cluster, empty.clone(), Some(&mut counter)).unwrap()), 5);
        assert_eq!(counter, 2);
        let mut unset = COUNTER_UNSET;
        let first = base(&allocator.allocate(&cluster, empty, Some(&mut unset)).unwrap());
        assert!(first == 1 || first == 4);
        assert_eq!(unset, (first - 1 + 3) % 5);
    }

    #[test]
    fn what_does_not_exist_is_refused() {
        let cluster = TestCluster::with_chains(2);
        let allocator = ChainAllocator::new(Env::real());
        let code_of = |layout: Layout| allocator.allocate(&cluster, layout, None).unwrap_err().code;
        assert_eq!(code_of(Layout::empty(ChainTableId(9), 4096, 1)), code::META_INVALID_FILE_LAYOUT);
        assert_eq!(code_of(Layout::empty(ChainTableId(1), 4096, 3)), code::META_INVALID_FILE_LAYOUT);
        assert_eq!(code_of(Layout::empty(ChainTableId(1), 4095, 1)), code::META_INVALID_FILE_LAYOUT);
        let range = Layout {
            table_version: ChainTableVersion(7),
            chains: Chains::ChainRange(ChainRange { base_index: 1, ..ChainRange::default() }),
            ..Layout::empty(ChainTableId(1), 4096, 1)
        };
        assert_eq!(code_of(range), code::META_INVALID_FILE_LAYOUT);
    }
}
