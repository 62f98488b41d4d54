//! Key, models and ports of a home.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use deepnode_client::keyring::Passphrase;

use super::{Check, Home};
use crate::gateway::{check_listen, ApiKeys};
use crate::model::{model_path, Model, Sandbox};

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

/// Bytes of a model.
pub struct Size {
    pub file: u64,
    /// Its weights as halves, however the file has them.
    pub halves: u64,
}

/// The models to load, and the sizes of those that are in order.
pub fn models(home: &Home, weights: bool) -> (Vec<Check>, Vec<Size>) {
    let ids = match home.models() {
        Ok(ids) => ids,
        Err(error) => {
            let remedy = "deepnode-worker models pull URL, or models import FILE.gguf";
            return (vec![Check::mend("models", format!("{error:#}"), remedy)], Vec::new());
        }
    };
    let mut sizes = Vec::new();
    let mut checks = Vec::new();
    for id in ids {
        let path = model_path(&home.models_folder(), &id);
        let opened = if weights { Model::open_verified(&path) } else { Model::open(&path) };
        let check = match opened {
            Ok(model) if model.id() != id => Check::mend(
                "model",
                format!("{} holds model {}", path.display(), hex::encode(model.id())),
                "remove the file and import it again",
            ),
            Ok(model) => {
                let halves = model.tensors().map(|(slot, _)| 2 * slot.rows as u64 * slot.cols as u64).sum();
                sizes.push(Size { file: model.file_len(), halves });
                let model = model.with_sandbox(Sandbox::this_program());
                if let Err(error) = model.tokenizer().check_template() {
                    let remedy = "texts are answered all the same; chats need another file of the model";
                    checks.push(Check::warning("template", format!("{}: {error}", hex::encode(id)), remedy));
                }
                let what = if weights { ", every weight as it should be" } else { "" };
                Check::ok("model", format!("{} ({}){what}", hex::encode(id), model.name()))
            }
            Err(error) => Check::mend("model", error.to_string(), "remove the file and import it again"),
        };
        checks.push(check);
    }
    (checks, sizes)
}

/// Where the worker listens: free, or a worker of this home is there already.
pub async fn ports(home: &Home) -> Vec<Check> {
    let listen = home.config.worker.listen;
    let mut checks = Vec::new();
    let address = listen.to_string();
    let asked = deepnode_client::serving::status(&address);
    let running = tokio::time::timeout(PATIENCE, asked).await.ok().and_then(Result::ok).map(|s| s.worker);
    checks.push(match &running {
        Some(worker) => Check::ok("port", format!("{listen}: worker {worker} runs")),
        None => port("worker.listen", listen),
    });
    match home.config.worker.metrics() {
        Ok(Some(metrics)) if running.is_none() => checks.push(port("worker.metrics", metrics)),
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
    } else {
        checks.push(reached(endpoint, running).await);
    }
    checks
}

/// Whether the endpoint leads to the worker, as far as this machine can tell.
async fn reached(endpoint: &str, running: Option<String>) -> Check {
    let Some(running) = running else {
        return Check::ok("endpoint", format!("{endpoint}; not checked, for the worker does not run"));
    };
    let asked = tokio::time::timeout(PATIENCE, deepnode_client::serving::status(endpoint)).await;
    match asked.ok().and_then(Result::ok) {
        Some(status) if status.worker == running => {
            Check::ok("endpoint", format!("{endpoint} answers as this worker"))
        }
        Some(status) => Check::mend(
            "endpoint",
            format!("at {endpoint} answers worker {}, not {running}", status.worker),
            "correct worker.endpoint in worker.toml, or where its port is forwarded to",
        ),
        None => Check::warning(
            "endpoint",
            format!("nobody answers at {endpoint} from here"),
            "try it from another machine (some networks do not lead back in); open the port, or correct worker.endpoint in worker.toml",
        ),
    }
}

/// A gateway's port, and the keys of those who may use it.
pub fn gateway(listen: SocketAddr, api_keys: Option<&Path>) -> Vec<Check> {
    let mut checks = vec![port("gateway", listen)];
    let Some(path) = api_keys else {
        checks.extend(check_listen(listen, &ApiKeys::default()).err().map(|reason| {
            Check::mend(
                "api keys",
                reason,
                "write a file of keys, one a line, for its owner only (chmod 600)",
            )
        }));
        return checks;
    };
    let found = path.display().to_string();
    checks.push(match ApiKeys::read(path) {
        Err(error) => Check::mend("api keys", format!("{error:#}"), "correct the file: a key a line"),
        Ok(keys) => match check_listen(listen, &keys) {
            Err(reason) => Check::mend("api keys", reason, format!("write keys into {found}, one a line")),
            Ok(()) if std::fs::metadata(path).is_ok_and(|file| file.mode() & 0o007 != 0) => Check::warning(
                "api keys",
                format!("everybody on this machine can read {found}"),
                format!("chmod 600 {found}"),
            ),
            Ok(()) => Check::ok("api keys", found),
        },
    });
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
            format!("stop what uses it (`ss -ltnp` shows it), or change {field}"),
        ),
    }
}
