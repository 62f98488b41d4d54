//! cosmos.base.node: what this node is set to and where it stands.

use deepnode_app::KEPT_HEIGHTS;
use deepnode_core::query::Status;
use deepnode_proto::cosmos::base::node::v1beta1::*;

use super::{Node, Result, Services};

pub fn register(services: &mut Services) {
    services
        .on("/cosmos.base.node.v1beta1.Service/Config", config)
        .on("/cosmos.base.node.v1beta1.Service/Status", status);
}

/// Each block takes the height that fell out of the kept ones with it, so the interval is 1.
fn config(node: &Node, _: ConfigRequest) -> Result<ConfigResponse> {
    Ok(ConfigResponse {
        minimum_gas_price: node.min_gas_prices.clone(),
        pruning_keep_recent: KEPT_HEIGHTS.to_string(),
        pruning_interval: "1".into(),
        halt_height: 0,
    })
}

/// The state does not know the hash of the next validators, which is CometBFT's: `validator_hash` stays empty.
fn status(node: &Node, _: StatusRequest) -> Result<StatusResponse> {
    let block = node.app.latest_block().map_err(Status::from)?;
    Ok(StatusResponse {
        earliest_store_height: node.app.earliest_height(),
        height: block.height,
        timestamp: Some(block.time.to_proto()),
        app_hash: node.app.app_hash().to_vec(),
        validator_hash: Vec::new(),
    })
}
