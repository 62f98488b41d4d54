//! `status --watch`: the same, live, in the terminal.

mod view;

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::bail;
use deepnode_client::keyring::Passphrase;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::status::status;
use super::Home;
use view::View;

/// How long the process that runs here may take to tell its metrics.
const PATIENCE: Duration = Duration::from_secs(2);

/// Shows what is, every `interval`, until q, Esc or Ctrl-C.
pub(super) fn run(home: &Home, interval: Duration) -> anyhow::Result<()> {
    if !std::io::stdout().is_terminal() {
        bail!("--watch needs a terminal; `status --json` is for programs");
    }
    // What opening the keyring warns of must not come into the picture.
    home.keyring(Passphrase::Prompt)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut view = View::default();
    // Restores the terminal when this ends, by a panic too.
    let mut terminal = ratatui::init();
    let shown = (|| loop {
        let (status, metrics) = runtime.block_on(async { tokio::join!(status(home), metrics(home)) });
        view.update(status, metrics.as_deref(), Instant::now());
        let next = Instant::now() + interval;
        loop {
            terminal.draw(|frame| view.draw(frame))?;
            let left = next.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            if event::poll(left)? && ends(&event::read()?) {
                return Ok(());
            }
        }
    })();
    ratatui::restore();
    shown
}

fn ends(event: &Event) -> bool {
    let Event::Key(key) = event else { return false };
    let interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind == KeyEventKind::Press && (interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc))
}

/// What the process that runs here says on its metrics port.
async fn metrics(home: &Home) -> Option<String> {
    let address = home.config.worker.metrics().ok()??;
    tokio::time::timeout(PATIENCE, scrape(address)).await.ok()?.ok()
}

async fn scrape(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    // HTTP/1.0: the answer ends with the connection.
    stream.write_all(format!("GET /metrics HTTP/1.0\r\nhost: {address}\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
