//! New blocks, as CometBFT tells them over its websocket: the worker then looks at once instead of after a while.

use std::time::Duration;

use anyhow::Context;
use async_tungstenite::tokio::connect_async;
use async_tungstenite::tungstenite::Message;
use futures::{SinkExt, StreamExt};
use serde_json::{json, Value};
use tokio::sync::watch;

/// How long a lost connection rests before another attempt.
pub const RETRY: Duration = Duration::from_secs(5);
/// Headers are small; the event of a whole block is not, and tendermint-rpc's subscriptions know no other.
const QUERY: &str = "tm.event = 'NewBlockHeader'";

/// Counts blocks that were told, for as long as this process runs. While the connection is lost none are: whoever
/// waits has to look by itself now and then. `retry` passes between two attempts to connect.
pub fn follow(rpc: String, retry: Duration) -> watch::Receiver<u64> {
    let (told, blocks) = watch::channel(0);
    tokio::spawn(async move {
        let mut warned = false;
        while !told.is_closed() {
            let mut heard = false;
            let error = match listen(&rpc, &told, &mut heard).await {
                Ok(()) => "it ended the connection".to_owned(),
                Err(error) => error.to_string(),
            };
            if heard || !warned {
                tracing::warn!(%error, rpc, "no events of blocks from CometBFT; looking by the clock");
            }
            warned = true;
            tokio::time::sleep(retry).await;
        }
    });
    blocks
}

/// Tells blocks until the connection ends.
async fn listen(rpc: &str, told: &watch::Sender<u64>, heard: &mut bool) -> anyhow::Result<()> {
    let (mut socket, _) = connect_async(websocket(rpc)).await?;
    let subscribe = json!({ "jsonrpc": "2.0", "id": 1, "method": "subscribe", "params": { "query": QUERY } });
    socket.send(Message::Text(subscribe.to_string())).await?;
    while let Some(message) = socket.next().await {
        let Message::Text(text) = message? else { continue };
        let message: Value = serde_json::from_str(&text).context("not JSON")?;
        if let Some(error) = message.get("error") {
            anyhow::bail!("CometBFT refuses: {error}");
        }
        // The answer to the subscription itself is empty.
        if message["result"]["data"].is_object() {
            *heard = true;
            told.send_modify(|count| *count += 1);
        }
    }
    Ok(())
}

/// Where the events of an RPC such as `http://127.0.0.1:26657` are.
fn websocket(rpc: &str) -> String {
    let rpc = rpc.trim_end_matches('/');
    format!("ws{}/websocket", rpc.strip_prefix("http").unwrap_or(rpc))
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_tungstenite::tokio::accept_async;
    use tokio::net::TcpListener;

    #[test]
    fn the_events_are_where_the_rpc_is() {
        assert_eq!(websocket("http://127.0.0.1:26657"), "ws://127.0.0.1:26657/websocket");
        assert_eq!(websocket("http://node.example/"), "ws://node.example/websocket");
    }

    /// Takes one subscription, tells two blocks as CometBFT 0.38 does, and hangs up.
    async fn comet(listener: &TcpListener) {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = accept_async(stream).await.unwrap();
        let request = socket.next().await.unwrap().unwrap().into_text().unwrap();
        let request: Value = serde_json::from_str(&request).unwrap();
        assert_eq!((&request["method"], &request["params"]["query"]), (&"subscribe".into(), &QUERY.into()));
        let answer = |result| {
            let answer = json!({ "jsonrpc": "2.0", "id": request["id"], "result": result });
            Message::Text(answer.to_string())
        };
        socket.send(answer(json!({}))).await.unwrap();
        for height in ["7", "8"] {
            let value = json!({ "header": { "height": height } });
            let data = json!({ "type": "tendermint/event/NewBlockHeader", "value": value });
            let event = json!({ "query": QUERY, "data": data, "events": { "tm.event": ["NewBlockHeader"] } });
            socket.send(answer(event)).await.unwrap();
        }
        socket.close(None).await.unwrap();
    }

    #[tokio::test]
    async fn blocks_are_told_also_after_a_lost_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let rpc = format!("http://{}", listener.local_addr().unwrap());
        let mut blocks = follow(rpc, Duration::from_millis(10));
        for told in [2, 4] {
            comet(&listener).await;
            tokio::time::timeout(RETRY, blocks.wait_for(|count| *count == told)).await.unwrap().unwrap();
        }
    }
}
