//! What so many CU a second are paid at today's price.

use std::fmt;

use anyhow::Context;
use deepnode_client::{task, Client};
use deepnode_proto::deepnode::models::v1::query_client::QueryClient as Models;
use deepnode_proto::deepnode::models::v1::QueryClassesRequest;
use serde::Serialize;

/// See [`earnings`].
#[derive(Clone, Debug, Serialize)]
pub struct Earnings {
    pub class: String,
    /// udn a million CU.
    pub price: f64,
    /// udn an hour that users pay when every CU is sold, and what of it is the worker's at the least and at the greatest
    /// levy for audits.
    pub udn_an_hour: f64,
    pub worker_udn_an_hour: [f64; 2],
    /// CU a block that the class asks of a worker.
    pub class_speed: u64,
}

/// What a node says that so many CU a second of a model (its id, hexadecimal) are paid now.
pub async fn earnings(node: &str, model: &str, cu_a_second: f64) -> anyhow::Result<Earnings> {
    let client = Client::connect(node).await?;
    let class = task::model(&client, model).await?.class;
    let classes = Models::new(client.channel()).classes(QueryClassesRequest {}).await?.into_inner().classes;
    let found = classes.into_iter().find(|c| c.name == class);
    let found = found.with_context(|| format!("the chain has no class {class:?}"))?;
    let price = decimal(&found.price).with_context(|| format!("price {:?}", found.price))?;
    let params = task::params(&client).await?;
    let taken = |levy: u32| 1.0 - f64::from(params.burn_ppm + params.community_ppm + levy) / 1e6;
    let udn_an_hour = cu_a_second * 3600.0 * price / 1e6;
    Ok(Earnings {
        class,
        price,
        udn_an_hour,
        worker_udn_an_hour: [params.levy_max_ppm, params.levy_min_ppm].map(|levy| udn_an_hour * taken(levy)),
        class_speed: found.speed,
    })
}

/// A number of 18 decimals that the chain writes without its point.
fn decimal(text: &str) -> Option<f64> {
    Some(text.parse::<u128>().ok()? as f64 / 1e18)
}

impl fmt::Display for Earnings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [least, most] = self.worker_udn_an_hour.map(|udn| udn / 1e6);
        write!(
            f,
            "earnings              {:.6} DN/h if every CU is sold at {:.1} udn a million ({}): {least:.6} to {most:.6} DN/h are the worker's",
            self.udn_an_hour / 1e6,
            self.price,
            self.class
        )
    }
}
