//! `keys`

use std::io::Read;
use std::path::Path;

use anyhow::{bail, Context, Result};
use clap::Subcommand;
use deepnode_client::keyring::Passphrase;
use deepnode_client::KeyInfo;
use deepnode_tx::Address;
use serde_json::json;

use super::KeyringArgs;

#[derive(Subcommand)]
pub enum Keys {
    /// Make a key, and print its 24 words once.
    Add {
        name: String,
        /// Read 12 or 24 words from standard input instead.
        #[arg(long)]
        recover: bool,
        #[command(flatten)]
        keyring: KeyringArgs,
    },
    /// List the keys.
    List {
        #[command(flatten)]
        keyring: KeyringArgs,
    },
    /// Show a key.
    Show {
        name: String,
        /// Print the address alone: `acc`, `val` or `cons`.
        #[arg(long, short = 'a', num_args = 0..=1, default_missing_value = "acc")]
        address: Option<String>,
        #[command(flatten)]
        keyring: KeyringArgs,
    },
    /// Delete a key.
    Delete {
        name: String,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
        #[command(flatten)]
        keyring: KeyringArgs,
    },
    /// Print a key, locked by a passphrase.
    Export {
        name: String,
        /// File whose first line locks the export; asked for by default.
        #[arg(long)]
        export_passphrase_file: Option<std::path::PathBuf>,
        #[command(flatten)]
        keyring: KeyringArgs,
    },
    /// Read a key that `export` printed, from standard input.
    Import {
        name: String,
        /// File whose first line unlocks the export; asked for by default.
        #[arg(long)]
        export_passphrase_file: Option<std::path::PathBuf>,
        #[command(flatten)]
        keyring: KeyringArgs,
    },
    /// Show an address in its other forms.
    Parse { address: String },
}

impl Keys {
    pub fn run(self, home: &Path) -> Result<()> {
        match self {
            Keys::Add { name, recover, keyring } => {
                let keyring = keyring.open(home)?;
                if recover {
                    print(&[keyring.recover(&name, stdin()?.trim())?]);
                    return Ok(());
                }
                let (info, words) = keyring.add(&name)?;
                print(&[info]);
                eprintln!("\nWrite these words down: they are the only way to restore the key.\n");
                println!("{}", words.as_str());
            }
            Keys::List { keyring } => print(&keyring.open(home)?.list()?),
            Keys::Show { name, address, keyring } => {
                let info = keyring.open(home)?.show(&name)?;
                match address.as_deref() {
                    None => print(&[info]),
                    Some("acc") => println!("{}", info.address),
                    Some("val") => println!("{}", info.address.to_operator()),
                    Some("cons") => println!("{}", info.address.to_consensus()),
                    Some(other) => bail!("--address {other:?} must be acc, val or cons"),
                }
            }
            Keys::Delete { name, yes, keyring } => {
                let keyring = keyring.open(home)?;
                let info = keyring.show(&name)?;
                if !yes {
                    eprint!("Delete {name} ({})? Without its words it is gone. [y/N] ", info.address);
                    let mut line = String::new();
                    std::io::stdin().read_line(&mut line)?;
                    if !matches!(line.trim(), "y" | "Y" | "yes") {
                        bail!("not deleted");
                    }
                }
                keyring.delete(&name)?;
            }
            Keys::Export { name, export_passphrase_file, keyring } => {
                let text = keyring.open(home)?.export(&name, &passphrase(export_passphrase_file))?;
                println!("{}", text.as_str());
            }
            Keys::Import { name, export_passphrase_file, keyring } => {
                let keyring = keyring.open(home)?;
                print(&[keyring.import(&name, &stdin()?, &passphrase(export_passphrase_file))?]);
            }
            Keys::Parse { address } => {
                let parsed = Address::parse(&address)
                    .or_else(|e| Address::parse_operator(&address).map_err(|_| e.clone()))
                    .or_else(|e| Address::parse_consensus(&address).map_err(|_| e))?;
                let forms = json!({
                    "account": parsed.to_string(),
                    "operator": parsed.to_operator(),
                    "consensus": parsed.to_consensus(),
                    "hex": hex::encode_upper(parsed.as_bytes()),
                });
                println!("{forms:#}");
            }
        }
        Ok(())
    }
}

fn passphrase(file: Option<std::path::PathBuf>) -> Passphrase {
    file.map_or(Passphrase::Prompt, Passphrase::File)
}

fn stdin() -> Result<String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("standard input")?;
    Ok(text)
}

fn print(keys: &[KeyInfo]) {
    for key in keys {
        println!("{:<16} {}  {}", key.name, key.address, hex::encode(key.public_key));
    }
    if keys.is_empty() {
        println!("no keys; `deepnoded keys add NAME` makes one");
    }
}
