//! One answer as it grows, and those who follow it.

use deepnode_proto::deepnode::serving::v1::StreamResponse;
use deepnode_proto::deepnode::tasks::v1::Receipt;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Messages that wait for a slow reader; behind them, tokens gather in larger ones.
const WAITING: usize = 16;
/// Most tokens in one message.
const BATCH: usize = 4096;

/// The answer of one task.
#[derive(Debug)]
pub struct Live {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    /// Each token with the text that it completes.
    tokens: Vec<(u32, String)>,
    /// Text that the end of the tokens completes.
    rest: String,
    end: Option<Result<Receipt, String>>,
}

impl Default for Live {
    fn default() -> Self {
        Self { state: Mutex::default(), changed: watch::Sender::new(()) }
    }
}

impl Live {
    /// A generation begins: an earlier attempt is forgotten. It gave the same tokens, so readers just go on.
    pub fn begin(&self) {
        *self.state.lock() = State::default();
    }

    pub fn push(&self, token: u32, text: String) {
        self.state.lock().tokens.push((token, text));
        self.changed.send_replace(());
    }

    pub fn finish(&self, rest: String, receipt: Receipt) {
        let mut state = self.state.lock();
        state.rest = rest;
        state.end = Some(Ok(receipt));
        drop(state);
        self.changed.send_replace(());
    }

    /// The answer will not come.
    pub fn fail(&self, reason: impl Into<String>) {
        self.state.lock().end = Some(Err(reason.into()));
        self.changed.send_replace(());
    }

    pub fn ended(&self) -> bool {
        self.state.lock().end.is_some()
    }

    /// The answer from its first token to its receipt.
    pub fn follow(self: Arc<Self>) -> ReceiverStream<Result<StreamResponse, Status>> {
        let (sender, receiver) = mpsc::channel(WAITING);
        tokio::spawn(async move {
            let mut changed = self.changed.subscribe();
            let mut seen = 0;
            loop {
                let (next, end) = self.after(&mut seen);
                let last = end || next.is_err();
                let empty = next.as_ref().is_ok_and(|m| m.tokens.is_empty()) && !last;
                if !empty && sender.send(next).await.is_err() {
                    return;
                }
                if last {
                    return;
                }
                if empty {
                    tokio::select! {
                        changed = changed.changed() => if changed.is_err() { return },
                        () = sender.closed() => return,
                    }
                }
            }
        });
        ReceiverStream::new(receiver)
    }

    /// What comes after the first `seen` tokens, and whether it is the end.
    fn after(&self, seen: &mut usize) -> (Result<StreamResponse, Status>, bool) {
        let state = self.state.lock();
        let to = state.tokens.len().min(*seen + BATCH);
        // An answer that begins anew has fewer tokens than were seen, for a while.
        let new = state.tokens.get(*seen..to).unwrap_or_default();
        let mut message = StreamResponse {
            tokens: new.iter().map(|(token, _)| *token).collect(),
            text: new.iter().map(|(_, text)| text.as_str()).collect(),
            receipt: None,
        };
        *seen += new.len();
        match &state.end {
            Some(Err(reason)) => (Err(Status::aborted(reason.clone())), true),
            Some(Ok(receipt)) if *seen >= state.tokens.len() => {
                message.text.push_str(&state.rest);
                message.receipt = Some(receipt.clone());
                (Ok(message), true)
            }
            _ => (Ok(message), false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt;

    #[tokio::test]
    async fn every_reader_gets_every_token_and_the_receipt() {
        let live = Arc::new(Live::default());
        let early = live.clone().follow();
        let writer = live.clone();
        let writing = tokio::spawn(async move {
            for token in 0..10_000 {
                writer.push(token, "x".into());
                if token % 1000 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            writer.finish("!".into(), Receipt { task_id: 3, ..Default::default() });
        });
        writing.await.unwrap();
        for stream in [early, live.clone().follow()] {
            let messages: Vec<_> = stream.collect::<Result<_, _>>().await.unwrap();
            let tokens: Vec<u32> = messages.iter().flat_map(|m| m.tokens.clone()).collect();
            let text: String = messages.iter().map(|m| m.text.as_str()).collect();
            assert!(tokens.iter().copied().eq(0..10_000));
            assert_eq!(text, "x".repeat(10_000) + "!");
            assert_eq!(messages.last().unwrap().receipt.as_ref().unwrap().task_id, 3);
            assert!(messages.iter().rev().skip(1).all(|m| m.receipt.is_none()));
        }
        let failed = Arc::new(Live::default());
        failed.push(1, String::new());
        failed.fail("taken away");
        let mut stream = failed.follow();
        assert_eq!(stream.next().await.unwrap().unwrap_err().message(), "taken away");
    }
}
