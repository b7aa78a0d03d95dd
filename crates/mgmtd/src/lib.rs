//! Cluster manager: lease, nodes, chains, configuration and client sessions
