//! The manager's other methods, one by one.

use super::MgmtdClient;
use std::collections::BTreeMap;
use valor_protocol::app::TagPair;
use valor_protocol::mgmtd::methods::*;
use valor_protocol::mgmtd::*;
use valor_protocol::*;

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($($field:ident: $ty:ty),*): $marker:ident($req:ident) -> $out:ty { $take:expr };)*) => {
        impl MgmtdClient {$(
            $(#[$doc])*
            ///
            /// # Errors
            /// As [`MgmtdClient::call`].
            pub async fn $name(&self, $($field: $ty),*) -> Result<$out, Status> {
                let req = $req {
                    cluster_id: self.identity.cluster_id.clone(),
                    user: self.identity.user.clone(),
                    $($field),*
                };
                let take: fn(<$marker as Method>::Rsp) -> $out = $take;
                self.call::<$marker>(&req).await.map(take)
            }
        )*}
    };
}

calls! {
    /// Admits a node.
    register_node(node_id: NodeId, r#type: NodeType): RegisterNode(RegisterNodeReq) -> () { |_| () };
    /// Stores a node type's configuration; its version.
    set_config_of(node_type: NodeType, content: String, desc: String):
        SetConfig(SetConfigReq) -> ConfigVersion { |rsp| rsp.config_version };
    /// A node type's configuration; none if unchanged or unknown.
    get_config(node_type: NodeType, config_version: ConfigVersion, exact_version: bool):
        GetConfig(GetConfigReq) -> Option<ConfigInfo> { |rsp| rsp.info };
    /// Newest configuration version per node type name.
    get_config_versions(): GetConfigVersions(GetConfigVersionsReq) -> BTreeMap<String, ConfigVersion> { |rsp| rsp.versions };
    /// Stores a chain table; its version.
    set_chain_table(chain_table_id: ChainTableId, chains: Vec<ChainId>, desc: String):
        SetChainTable(SetChainTableReq) -> ChainTableVersion { |rsp| rsp.chain_table_version };
    /// Creates chains.
    set_chains(chains: Vec<ChainSetting>): SetChains(SetChainsReq) -> () { |_| () };
    /// Enables a node.
    enable_node(node_id: NodeId): EnableNode(EnableNodeReq) -> () { |_| () };
    /// Disables a node.
    disable_node(node_id: NodeId): DisableNode(DisableNodeReq) -> () { |_| () };
    /// Forgets a node.
    unregister_node(node_id: NodeId): UnregisterNode(UnregisterNodeReq) -> () { |_| () };
    /// Changes a node's tags; the node afterwards.
    set_node_tags(node_id: NodeId, tags: Vec<TagPair>, mode: SetTagMode):
        SetNodeTags(SetNodeTagsReq) -> NodeInfo { |rsp| rsp.info };
    /// Changes the tags of a universal id; the tags afterwards.
    set_universal_tags(universal_id: String, tags: Vec<TagPair>, mode: SetTagMode):
        SetUniversalTags(SetUniversalTagsReq) -> Vec<TagPair> { |rsp| rsp.tags };
    /// Tags of a universal id.
    get_universal_tags(universal_id: String): GetUniversalTags(GetUniversalTagsReq) -> Vec<TagPair> { |rsp| rsp.tags };
    /// Clients that are alive.
    list_client_sessions(): ListClientSessions(ListClientSessionsReq) -> ListClientSessionsRsp { |rsp| rsp };
    /// One client's session.
    get_client_session(client_id: String): GetClientSession(GetClientSessionReq) -> GetClientSessionRsp { |rsp| rsp };
    /// Moves a chain's LASTSRV target to the end; the chain afterwards.
    rotate_last_srv(chain_id: ChainId): RotateLastSrv(RotateLastSrvReq) -> ChainInfo { |rsp| rsp.chain };
    /// Targets that are in no chain.
    list_orphan_targets(): ListOrphanTargets(ListOrphanTargetsReq) -> Vec<TargetInfo> { |rsp| rsp.targets };
    /// Stores a chain's preferred order; the chain afterwards.
    set_preferred_target_order(chain_id: ChainId, preferred_target_order: Vec<TargetId>):
        SetPreferredTargetOrder(SetPreferredTargetOrderReq) -> ChainInfo { |rsp| rsp.chain };
    /// One step of a chain towards its preferred order; the chain afterwards.
    rotate_as_preferred_order(chain_id: ChainId): RotateAsPreferredOrder(RotateAsPreferredOrderReq) -> ChainInfo { |rsp| rsp.chain };
    /// Adds or removes a chain's target; the chain afterwards.
    update_chain(chain_id: ChainId, target_id: TargetId, mode: UpdateChainMode):
        UpdateChain(UpdateChainReq) -> ChainInfo { |rsp| rsp.chain };
    /// Who is the primary manager.
    get_primary_mgmtd(): GetPrimaryMgmtd(GetPrimaryMgmtdReq) -> Option<PersistentNodeInfo> { |rsp| rsp.primary };
}
