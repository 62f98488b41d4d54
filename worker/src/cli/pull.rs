//! `models pull`: a model from a URL into the home's models.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context};
use clap::Args;
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use object_store::path::Path as Key;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore};
use sha2::{Digest as _, Sha256};
use url::Url;

use super::models::{import_with_progress, warn_of_template};
use super::{block_on, Global};
use crate::canon::Digest;
use crate::model::{model_path, AnyModel};

/// Attempts without a new byte after which a transfer is given up.
const ATTEMPTS: u32 = 5;
const REPLACED: &str = "another file is there now";
/// First bytes of a model that was imported elsewhere.
const IMPORTED: &[u8; 8] = b"deepnode";

#[derive(Debug, Args)]
pub(super) struct Pull {
    /// A GGUF file or an imported model: file:///PATH, http(s)://HOST/PATH, or s3://BUCKET/KEY, whose credentials, region
    /// and endpoint are those in the AWS_* variables of the environment.
    url: String,
    /// SHA-256 that the file must have, hex.
    #[arg(long)]
    sha256: Option<String>,
    /// Model id that it must come to, hex.
    #[arg(long)]
    id: Option<String>,
}

impl Pull {
    /// Prints the model's id. What was transferred stays after a failure, and the next attempt goes on from there; but not
    /// on a disk that is full.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<()> {
        let sha256 = self.sha256.as_deref().map(|text| digest("--sha256", text)).transpose()?;
        let id = self.id.as_deref().map(|text| digest("--id", text)).transpose()?;
        let folder = global.home.join("models");
        if let Some(id) = id.filter(|id| model_path(&folder, id).is_file()) {
            println!("{}", hex::encode(id));
            eprintln!("It is there already.");
            return Ok(());
        }
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let part = block_on(fetch(&self.url, &folder))?;
        let found = sha256_of(&part)?;
        if sha256.is_some_and(|expected| expected != found) {
            std::fs::remove_file(&part)?;
            bail!("{} has the SHA-256 {}, not that of --sha256", self.url, hex::encode(found));
        }
        eprintln!("sha256 {}", hex::encode(found));
        let imported = keep(&part, &folder, id).with_context(|| self.url.clone());
        // A file that is no model is none the next time either.
        std::fs::remove_file(&part).or_else(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(e),
        })?;
        let id = imported?;
        println!("{}", hex::encode(id));
        warn_of_template(&model_path(&folder, &id))
    }
}

fn digest(what: &str, text: &str) -> anyhow::Result<Digest> {
    let mut digest = [0; 32];
    hex::decode_to_slice(text, &mut digest)
        .with_context(|| format!("{what} {text:?} has not 64 hex digits"))?;
    Ok(digest)
}

/// Makes a model of what was transferred.
fn keep(part: &Path, folder: &Path, expected: Option<Digest>) -> anyhow::Result<Digest> {
    let mut magic = [0; IMPORTED.len()];
    std::fs::File::open(part)?.read_exact(&mut magic).context("too short for a model")?;
    let other = |id: Digest| -> anyhow::Result<Digest> {
        match expected {
            Some(expected) if expected != id => bail!("it is model {}, not that of --id", hex::encode(id)),
            _ => Ok(id),
        }
    };
    if magic == *IMPORTED {
        let model = AnyModel::open(part)?;
        let id = other(model.id())?;
        model.verify()?;
        drop(model);
        std::fs::rename(part, model_path(folder, &id))?;
        return Ok(id);
    }
    let imported = import_with_progress(part, folder)?;
    if let Err(error) = other(imported.id) {
        if !imported.existed {
            std::fs::remove_file(imported.path)?;
        }
        return Err(error);
    }
    Ok(imported.id)
}

fn sha256_of(path: &Path) -> anyhow::Result<Digest> {
    let mut hasher = Sha256::new();
    std::io::copy(&mut std::fs::File::open(path)?, &mut hasher)?;
    Ok(hasher.finalize().into())
}

/// The store that a URL is of, and the key in it.
fn open(text: &str) -> anyhow::Result<(Box<dyn ObjectStore>, Key)> {
    let url = Url::parse(text).with_context(|| {
        format!("{text:?} is no URL (file:///PATH, http(s)://HOST/PATH, s3://BUCKET/KEY)")
    })?;
    ensure!(url.query().is_none(), "{text:?} has a query, which stores do not pass on");
    let known = ["file", "http", "https", "s3"];
    ensure!(known.contains(&url.scheme()), "{text:?} must begin with one of {known:?}");
    let mut options: Vec<(String, String)> = Vec::new();
    if url.scheme() == "s3" {
        let of_aws = |(name, value): (String, String)| {
            name.starts_with("AWS_").then(|| (name.to_ascii_lowercase(), value))
        };
        options.extend(std::env::vars().filter_map(of_aws));
    }
    if url.scheme() == "http" {
        options.push(("allow_http".into(), "true".into()));
    }
    object_store::parse_url_opts(&url, options).with_context(|| text.to_owned())
}

/// Where what came of this version of a file is kept. What came of earlier ones is of no use any more, and removed.
fn part_of(url: &str, meta: &ObjectMeta, folder: &Path) -> std::io::Result<PathBuf> {
    let short = |text: &str| blake3::hash(text.as_bytes()).to_hex()[..16].to_owned();
    let of_url = format!(".pull-{}-", short(url));
    let version = format!("{}\n{:?}\n{}", meta.size, meta.e_tag, meta.last_modified);
    let part = format!("{of_url}{}.part", short(&version));
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        if name.to_string_lossy().starts_with(&of_url) && *name != *part {
            std::fs::remove_file(folder.join(name))?;
        }
    }
    Ok(folder.join(part))
}

/// Transfers a file into a folder, going on from what an earlier attempt left; answers where it is.
async fn fetch(url: &str, folder: &Path) -> anyhow::Result<PathBuf> {
    let (store, key) = open(url)?;
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}")?;
    let bar = ProgressBar::new(0).with_style(style);
    let length = |part: &Path| std::fs::metadata(part).map_or(0, |meta| meta.len());
    let mut failures = 0;
    let part = loop {
        // Asked at each attempt: another file under the same URL begins anew.
        let meta = store.head(&key).await.with_context(|| url.to_owned())?;
        let part = part_of(url, &meta, folder)?;
        bar.set_length(meta.size);
        let before = length(&part);
        match transfer(&*store, &key, &meta, &part, &bar).await {
            Ok(()) => break part,
            // On a full disk nothing is left that would keep it so.
            Err(error) if is_full(&error) => {
                let _ = std::fs::remove_file(&part);
                return Err(error.context(url.to_owned()));
            }
            Err(error) => {
                failures = if length(&part) > before { 1 } else { failures + 1 };
                if failures == ATTEMPTS {
                    return Err(error.context(url.to_owned()));
                }
                bar.suspend(|| eprintln!("the transfer broke off, trying on: {error:#}"));
                tokio::time::sleep(std::time::Duration::from_millis(200 << failures)).await;
            }
        }
    };
    bar.finish_and_clear();
    Ok(part)
}

/// Whether a disk has no room left.
fn is_full(error: &anyhow::Error) -> bool {
    let full = |io: &std::io::Error| io.kind() == std::io::ErrorKind::StorageFull;
    error.chain().any(|cause| cause.downcast_ref().is_some_and(full))
}

/// Whether two answers are about one version of a file, as far as the server tells.
fn same(a: &ObjectMeta, b: &ObjectMeta) -> bool {
    let by_tag = a.e_tag.as_ref().zip(b.e_tag.as_ref()).map(|(a, b)| a == b);
    a.size == b.size && by_tag.unwrap_or(a.last_modified == b.last_modified)
}

/// Appends what is missing.
async fn transfer(
    store: &dyn ObjectStore,
    key: &Key,
    meta: &ObjectMeta,
    part: &Path,
    bar: &ProgressBar,
) -> anyhow::Result<()> {
    let here = || part.display().to_string();
    let opened = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(part);
    let mut file = opened.with_context(here)?;
    let mut have = file.seek(SeekFrom::End(0))?;
    if have > meta.size {
        file.set_len(0)?;
        have = file.seek(SeekFrom::Start(0))?;
    }
    bar.set_position(have);
    if have < meta.size {
        // A weak tag matches nothing: what comes is compared besides.
        let if_match = meta.e_tag.clone().filter(|tag| !tag.starts_with("W/"));
        let ask = |range| {
            store.get_opts(key, GetOptions { range, if_match: if_match.clone(), ..Default::default() })
        };
        let answer = match ask((have > 0).then_some(GetRange::Offset(have))).await {
            Err(object_store::Error::NotSupported { .. }) if have > 0 => {
                bar.suspend(|| eprintln!("the server sends no parts of files: beginning anew"));
                file.set_len(0)?;
                file.seek(SeekFrom::Start(0))?;
                have = 0;
                ask(None).await
            }
            answer => answer,
        };
        let answer = match answer {
            Err(object_store::Error::Precondition { .. }) => bail!(REPLACED),
            answer => answer?,
        };
        ensure!(same(&answer.meta, meta), REPLACED);
        let mut chunks = answer.into_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            have += chunk.len() as u64;
            ensure!(have <= meta.size, "more bytes came than the {} that were announced", meta.size);
            file.write_all(&chunk).with_context(here)?;
            bar.set_position(have);
        }
    }
    ensure!(have == meta.size, "{have} bytes came of {}", meta.size);
    file.sync_all().with_context(here)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_file_comes_whole() {
        let home = tempfile::tempdir().unwrap();
        let source = home.path().join("a model.bin");
        std::fs::write(&source, b"0123456789").unwrap();
        let url = Url::from_file_path(&source).unwrap();
        let part = fetch(url.as_str(), home.path()).await.unwrap();
        assert_eq!(std::fs::read(part).unwrap(), b"0123456789");
        let missing = fetch("file:///no/such/file", home.path()).await.unwrap_err();
        assert!(format!("{missing:#}").contains("file:///no/such/file"), "{missing:#}");
    }

    #[test]
    fn only_urls_that_are_understood_whole() {
        for (url, part) in [
            ("model.gguf", "no URL"),
            ("ftp://host/model", "must begin with"),
            ("https://host/model?token=1", "has a query"),
        ] {
            assert!(open(url).err().unwrap().to_string().contains(part), "{url}");
        }
    }

    /// A server that breaks off after four bytes of each answer.
    async fn fragile(bytes: &'static [u8], asked: Arc<AtomicUsize>) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/dir/model.bin", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap().to_lowercase();
                let from = head
                    .split("range: bytes=")
                    .nth(1)
                    .map_or(0, |range| range.split('-').next().unwrap().parse::<usize>().unwrap());
                let (total, rest) = (bytes.len(), &bytes[from..]);
                let status = match from {
                    0 => "200 OK".to_owned(),
                    _ => format!("206 Partial Content\r\ncontent-range: bytes {from}-{}/{total}", total - 1),
                };
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\netag: \"x\"\r\nlast-modified: Tue, 15 Nov 1994 12:45:26 GMT\r\n\r\n",
                    rest.len()
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
                if head.starts_with("get") {
                    asked.fetch_add(1, Ordering::Relaxed);
                    stream.write_all(&rest[..rest.len().min(4)]).await.unwrap();
                }
            }
        });
        url
    }

    #[tokio::test]
    async fn a_transfer_that_breaks_off_goes_on() {
        let home = tempfile::tempdir().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let url = fragile(b"0123456789", asked.clone()).await;
        let part = fetch(&url, home.path()).await.unwrap();
        assert_eq!(std::fs::read(part).unwrap(), b"0123456789");
        assert!(asked.load(Ordering::Relaxed) >= 3);
    }
}
