//! What `valor admin list-chains` says.

use super::Cluster;
use serde_json::Value;

pub struct Chain {
    pub id: u64,
    pub version: u64,
    /// Targets with their states, head first.
    pub targets: String,
    pub status: String,
}

/// All chains, in the order of their ids.
pub fn chains(cluster: &Cluster) -> Vec<Chain> {
    try_chains(cluster).unwrap_or_else(|said| panic!("list-chains: {said}"))
}

/// The same, unless nobody can tell at the moment.
pub fn try_chains(cluster: &Cluster) -> Result<Vec<Chain>, String> {
    let said = cluster.try_admin(&["list-chains", "--json"])?;
    let list: Value = serde_json::from_str(&said).expect("JSON");
    let chain = |chain: &Value| {
        let number = |key: &str| chain[key].as_u64().expect("number");
        let text = |key: &str| chain[key].as_str().expect("text").to_owned();
        Chain {
            id: number("ChainId"),
            version: number("ChainVersion"),
            targets: text("Targets"),
            status: text("Status"),
        }
    };
    Ok(list.as_array().expect("a list").iter().map(chain).collect())
}

/// Whether every chain is whole.
pub fn all_serve(cluster: &Cluster) -> bool {
    // At first all targets count as serving; they are when their servers have said so.
    let serves = |chain: &Chain| chain.status == "SERVING" && !chain.targets.contains("-Off");
    try_chains(cluster).is_ok_and(|chains| chains.iter().all(serves))
}

/// Versions of all chains, in the order of their ids.
pub fn versions(cluster: &Cluster) -> Vec<u64> {
    chains(cluster).iter().map(|chain| chain.version).collect()
}
