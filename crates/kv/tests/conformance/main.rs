//! One suite for every engine: each case gets a fresh database from each engine's maker.

#[path = "../../src/random.rs"]
#[allow(dead_code)]
mod random;

mod conflicts;
mod engines;
mod model;
mod reads;
mod writes;

/// Declares each case as a test on each engine.
macro_rules! on_every_engine {
    ($($module:ident: $($case:ident)*;)*) => {
        $($(
            mod $case {
                use crate::engines;
                #[tokio::test]
                async fn memory() { crate::$module::$case(&mut engines::memory()).await }
                #[tokio::test]
                async fn simulated() { crate::$module::$case(&mut engines::simulated()).await }
                #[tokio::test]
                async fn remote() { crate::$module::$case(&mut engines::remote()).await }
                #[tokio::test]
                async fn embedded() { crate::$module::$case(&mut engines::embedded_process()).await }
                #[tokio::test]
                async fn embedded_synced() { crate::$module::$case(&mut engines::embedded_always()).await }
            }
        )*)*
    };
}

on_every_engine! {
    conflicts:
        lost_update
        write_skew
        phantom_in_a_range
        conflict_with_clear_range
        snapshot_reads_do_not_conflict
        blind_writes_do_not_conflict
        read_only_transactions_commit
        explicit_conflict_ranges
        own_writes_are_no_reads
        a_limited_range_read_conflicts_up_to_its_end
        concurrent_counters
        concurrent_transfers_keep_the_sum;
    reads:
        a_transaction_reads_one_version
        reads_see_own_writes
        ranges_see_own_writes
        ranges_longer_than_a_chunk
        prefixes;
    writes:
        all_or_nothing
        sizes_are_bounded
        reserved_keys
        versionstamps_grow
        metadata_version
        a_versionstamp_is_unreadable_before_commit
        a_transaction_ends_with_its_commit
        commits_survive_reopening;
    model:
        random_transactions_agree_with_a_model;
}
