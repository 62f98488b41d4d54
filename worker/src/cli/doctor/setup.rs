//! Key, models and ports of a home.

use std::net::SocketAddr;
use std::time::Duration;

use deepnode_client::keyring::Passphrase;

use super::{Check, Home};
use crate::model::{model_path, Model};

/// How long a worker on this machine may take to say that it is one.
const PATIENCE: Duration = Duration::from_secs(2);

pub fn key(home: &Home) -> Vec<Check> {
    let name = &home.config.key;
    let found = home.keyring(Passphrase::Prompt).and_then(|keyring| Ok(keyring.show(name)?));
    match found {
        Ok(info) => {
            let found = format!("{name}, {}", info.address);
            vec![match home.config.keyring_backend.as_str() {
                "test" => {
                    let remedy = "for coins that are worth something: keyring_backend = \"file\"";
                    Check::warning("key", format!("{found}, not encrypted"), remedy)
                }
                _ => Check::ok("key", found),
            }]
        }
        Err(error) => {
            let remedy = format!("restore it (`deepnoded keys add {name} --recover --keyring-dir {}`), or name another in worker.toml (key)", home.dir.display());
            vec![Check::mend("key", format!("{error:#}"), remedy)]
        }
    }
}

/// The models to load, and their bytes.
pub fn models(home: &Home, weights: bool) -> (Vec<Check>, u64) {
    let ids = match home.models() {
        Ok(ids) => ids,
        Err(error) => {
            let remedy = "deepnode-worker models pull URL, or models import FILE.gguf";
            return (vec![Check::mend("models", format!("{error:#}"), remedy)], 0);
        }
    };
    let mut bytes = 0;
    let mut checks = Vec::new();
    for id in ids {
        let path = model_path(&home.models_folder(), &id);
        let opened = Model::open(&path).and_then(|model| {
            if weights {
                model.verify()?;
            }
            Ok(model)
        });
        checks.push(match opened {
            Ok(model) if model.id() != id => Check::mend(
                "model",
                format!("{} holds model {}", path.display(), hex::encode(model.id())),
                "remove the file and import it again",
            ),
            Ok(model) => {
                bytes += model.file_len();
                let what = if weights { ", every weight as it should be" } else { "" };
                Check::ok("model", format!("{} ({}){what}", hex::encode(id), model.name()))
            }
            Err(error) => Check::mend("model", error.to_string(), "remove the file and import it again"),
        });
    }
    (checks, bytes)
}

/// Where the worker listens: free, or a worker of this home is there already.
pub async fn ports(home: &Home) -> Vec<Check> {
    let listen = home.config.worker.listen;
    let mut checks = Vec::new();
    let address = listen.to_string();
    let asked = deepnode_client::serving::status(&address);
    let running = match tokio::time::timeout(PATIENCE, asked).await.ok().and_then(Result::ok) {
        Some(status) => {
            checks.push(Check::ok("port", format!("{listen}: worker {} runs", status.worker)));
            true
        }
        None => {
            checks.push(port("worker.listen", listen));
            false
        }
    };
    match home.config.worker.metrics() {
        Ok(Some(metrics)) if !running => checks.push(port("worker.metrics", metrics)),
        _ => {}
    }
    let endpoint = &home.config.worker.endpoint;
    let host = endpoint.trim_start_matches("http://").rsplit_once(':').map_or("", |(host, _)| host);
    let node = home.config.node.trim_start_matches("http://");
    if is_loopback(host) && !is_loopback(node.rsplit_once(':').map_or("", |(host, _)| host)) {
        let remedy =
            "worker.endpoint in worker.toml: an address under which users and auditors reach this machine";
        checks.push(Check::mend(
            "endpoint",
            format!("{endpoint} is this machine's own, the node is elsewhere"),
            remedy,
        ));
    }
    checks
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn port(field: &str, address: SocketAddr) -> Check {
    match std::net::TcpListener::bind(address) {
        Ok(_) => Check::ok("port", format!("{field} {address} is free")),
        Err(error) => Check::mend(
            "port",
            format!("{field} {address}: {error}"),
            format!("stop what uses it (`ss -ltnp` shows it), or change {field} in worker.toml"),
        ),
    }
}
