//! What is refused, by whom the machine is used, and when answers end that nobody waits for.

use std::time::{Duration, Instant};

use deepnode_worker::engine::{Engine, Options};
use deepnode_worker::gateway::{ApiKeys, Limits, Settings};
use deepnode_worker::model::synthetic;
use reqwest::{Method, StatusCode};
use serde_json::{json, Value};

use super::{chat, engine, imported, json_of, long, short, Server, CHAT, COMPLETIONS, SMALL};

/// Numbers beyond a half's range end the answer with an error that says so, whole or streamed, and no retry helps.
#[tokio::test]
async fn numbers_that_overflow() {
    let model = imported(&synthetic::overflowing());
    let server = Server::start(&model, engine(&model), Settings::default()).await;
    let ask =
        |stream: bool| json!({ "model": "test", "prompt": "the sea", "max_tokens": 4, "stream": stream });
    let response = server.send(COMPLETIONS, &ask(false)).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(response.headers()["x-should-retry"], "false");
    let error = json_of(response).await["error"].take();
    assert_eq!(error["code"], "numeric");
    assert_eq!(
        error["message"],
        "after 0 tokens the model's numbers are not finite: it cannot answer this prompt"
    );
    let streamed = server.send(COMPLETIONS, &ask(true)).await.unwrap().text().await.unwrap();
    assert!(streamed.contains("\"code\":\"numeric\""), "{streamed}");
    assert_eq!(server.metric("running").await, 0);
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused_by_name() {
    let server = Server::small().await;
    let user = |content: Value| json!([{ "role": "user", "content": content }]);
    let function = json!([{ "type": "function", "function": { "name": "f" } }]);
    // (fields of a chat, status, field, part of the message)
    let table = [
        (
            json!({ "temperature": -1 }),
            400,
            "temperature",
            "is -1, must be 0 (greedy) or a number from 0.01 to 2",
        ),
        (json!({ "temperature": "NaN" }), 400, "temperature", "is \"NaN\", must be"),
        (json!({ "temperature": 0.001 }), 400, "temperature", "is 0.001"),
        (json!({ "temperature": 1e308 }), 400, "temperature", "a number from 0.01 to 2"),
        (json!({ "top_p": -1e308 }), 400, "top_p", "must be a number from 0 to 1"),
        (
            json!({ "seed": u64::MAX }),
            400,
            "seed",
            "is 18446744073709551615, must be an integer from -9223372036",
        ),
        (json!({ "seed": 1e300 }), 400, "seed", "must be an integer"),
        (json!({ "top_p": 1.5 }), 400, "top_p", "is 1.5, must be a number from 0 to 1"),
        (json!({ "top_k": 65 }), 400, "top_k", "an integer from 0 to 64"),
        (json!({ "max_tokens": 0 }), 400, "max_tokens", "is 0, must be an integer from 1 to 256"),
        (json!({ "max_tokens": 1e9 }), 400, "max_tokens", "from 1 to 256"),
        (json!({ "max_tokens": 250 }), 400, "max_tokens", "is 250, must be at most"),
        (json!({ "max_completion_tokens": 250 }), 400, "max_completion_tokens", "the context is 256"),
        (
            json!({ "max_tokens": 3, "max_completion_tokens": 4 }),
            400,
            "max_completion_tokens",
            "is 4, must be max_tokens",
        ),
        (json!({ "n": 9 }), 400, "n", "an integer from 1 to 8"),
        (json!({ "seed": 1.5 }), 400, "seed", "is 1.5, must be an integer"),
        (json!({ "stop": ["a", "b", "c", "d", "e"] }), 400, "stop", "up to 4"),
        (json!({ "stop": "" }), 400, "stop", "is \"\""),
        (json!({ "stream": "yes" }), 400, "stream", "must be true or false"),
        (json!({ "stream_options": {} }), 400, "stream_options", "absent where stream is not true"),
        (json!({ "logprobs": 1 }), 400, "logprobs", "is 1, must be true or false"),
        (json!({ "logprobs": true, "top_logprobs": 21 }), 400, "top_logprobs", "an integer from 0 to 20"),
        (json!({ "logprobs": true, "top_logprobs": -1 }), 400, "top_logprobs", "an integer from 0 to 20"),
        (
            json!({ "top_logprobs": 2 }),
            400,
            "top_logprobs",
            "is 2, must be 0 or absent where logprobs is not",
        ),
        (json!({ "frequency_penalty": 0.5 }), 400, "frequency_penalty", "no penalties"),
        (json!({ "logit_bias": { "1": 2 } }), 400, "logit_bias", "is not supported"),
        (json!({ "response_format": { "type": "json_object" } }), 400, "response_format", "is not supported"),
        (json!({ "reasoning_effort": "high" }), 400, "reasoning_effort", "is not supported"),
        (json!({ "tools": function }), 400, "tools", "no place for them"),
        (json!({ "tools": function, "tool_choice": "required" }), 400, "tool_choice", "is not supported"),
        (json!({ "model": "gpt-4" }), 404, "model", "must be one of test"),
        (json!({ "model": null }), 400, "model", "is missing"),
        (json!({ "messages": [] }), 400, "messages", "at least one"),
        (json!({ "messages": "hi" }), 400, "messages", "is \"hi\", must be a list of messages"),
        (
            json!({ "messages": [{ "role": "robot", "content": "" }] }),
            400,
            "messages[0].role",
            "is \"robot\"",
        ),
        (json!({ "messages": [{ "role": "user" }] }), 400, "messages[0].content", "is missing"),
        (
            json!({ "messages": [{ "role": "user", "content": "", "colour": 1 }] }),
            400,
            "messages[0].colour",
            "not supported",
        ),
        (
            json!({ "messages": user(json!([{ "type": "image_url" }])) }),
            400,
            "messages[0].content[0].type",
            "image_url",
        ),
        (json!({ "messages": user(json!("long ".repeat(300))) }), 400, "messages", "the context is 256"),
    ];
    for (fields, status, param, part) in table {
        let (found, answer) = server.post(CHAT, &chat(fields.clone())).await;
        let error = &answer["error"];
        assert_eq!((found.as_u16(), &error["param"]), (status, &json!(param)), "{fields}: {answer}");
        assert!(error["message"].as_str().unwrap().contains(part), "{fields}: {answer}");
        assert_eq!(error["type"], "invalid_request_error");
        assert!(error["code"].is_string());
    }
    let complete = |more: Value| {
        let mut body = json!({ "model": "test", "prompt": "a" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (fields, param) in [
        (json!({ "echo": true }), "echo"),
        (json!({ "best_of": 2 }), "best_of"),
        (json!({ "suffix": "z" }), "suffix"),
        (json!({ "logprobs": 6 }), "logprobs"),
        (json!({ "logprobs": true }), "logprobs"),
        (json!({ "top_logprobs": 1 }), "top_logprobs"),
        (json!({ "prompt": ["a", "b"] }), "prompt"),
        (json!({ "prompt": [] }), "prompt"),
        (json!({ "prompt": "" }), "prompt"),
        (json!({ "prompt": [1, 288] }), "prompt[1]"),
        (json!({ "messages": [] }), "messages"),
    ] {
        let (status, answer) = server.post(COMPLETIONS, &complete(fields)).await;
        assert_eq!((status.as_u16(), &answer["error"]["param"]), (400, &json!(param)), "{answer}");
    }
    // Neutral values of what is refused, and fields without a bearing on the answer.
    let neutral = json!({
        "temperature": 0, "max_tokens": 2, "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {},
        "logprobs": false, "response_format": { "type": "text" }, "tools": [], "user": "u", "metadata": { "a": "b" },
        "stop": null, "n": 1,
    });
    assert_eq!(
        server.ask(CHAT, &chat(neutral)).await["choices"],
        server.ask(CHAT, &short()).await["choices"]
    );
}

#[tokio::test]
async fn bad_bodies_get_clean_errors() {
    let server = Server::small().await;
    let send = |kind: &'static str, body: Vec<u8>| {
        server.client.post(format!("{}{CHAT}", server.base)).header("content-type", kind).body(body).send()
    };
    let json = "application/json; charset=utf-8";
    for (kind, body, status, part) in [
        (json, b"{\"model\":".to_vec(), 400, "not JSON"),
        (json, b"{\"model\":\"\xff\"}".to_vec(), 400, "not UTF-8"),
        (json, b"{\"temperature\":1e999}".to_vec(), 400, "number out of range"),
        (json, b"[]".to_vec(), 400, "must be an object"),
        (json, vec![b'['; 100_000], 400, "recursion limit"),
        (
            json,
            format!("{{\"model\":\"test\",\"messages\":[{}1]}}", "[],".repeat(1_300_000)).into(),
            400,
            "messages[0]",
        ),
        (json, format!("{{{}\"a\":1}}", "\"a\":{},".repeat(500_000)).into(), 400, "model is missing"),
        (json, vec![b' '; 5 << 20], 413, "4194304"),
        ("text/plain", b"{}".to_vec(), 415, "must be application/json"),
    ] {
        let response = send(kind, body).await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{part}");
        let answer = json_of(response).await;
        assert!(answer["error"]["message"].as_str().unwrap().contains(part), "{answer}");
        assert!(answer["error"]["code"].is_string(), "{answer}");
    }
    for (method, path, status) in [
        (Method::GET, "/v1/nothing", 404),
        (Method::GET, CHAT, 405),
        (Method::POST, "/v1/models", 405),
        (Method::POST, "/v1/embeddings", 400),
    ] {
        let response = server.client.request(method, format!("{}{path}", server.base)).send().await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{path}");
        let error = json_of(response).await;
        assert!(error["error"]["message"].is_string() && error["error"]["code"].is_string(), "{error}");
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let limits = Limits { body: Duration::from_millis(200), ..Limits::default() };
    let server = Server::start(&SMALL, engine(&SMALL), Settings { limits, ..Settings::default() }).await;
    let address = server.base.strip_prefix("http://").unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{\"mo"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    tokio::time::timeout(Duration::from_secs(20), stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
}

#[tokio::test]
async fn keys_and_names_guard_the_machine() {
    let keys = ApiKeys::parse("sk-0123456789abcdef\nsk-fedcba9876543210").unwrap();
    let server = Server::start(&SMALL, engine(&SMALL), Settings { keys, ..Default::default() }).await;
    let get = |path: &str, key: &str| {
        server.client.get(format!("{}{path}", server.base)).header("authorization", key).send()
    };
    for (path, key, status) in [
        ("/v1/models", "Bearer sk-fedcba9876543210", 200),
        ("/v1/models", "bearer sk-0123456789abcdef", 200),
        ("/metrics", "Bearer sk-0123456789abcdef", 200),
        ("/v1/models", "Bearer sk-0123456789abcdeg", 401),
        ("/v1/models", "Basic sk-0123456789abcdef", 401),
        ("/metrics", "", 401),
        ("/health", "", 200),
    ] {
        assert_eq!(get(path, key).await.unwrap().status().as_u16(), status, "{path} {key}");
    }
    let (status, answer) = server.post(CHAT, &short()).await;
    assert_eq!((status.as_u16(), &answer["error"]["code"]), (401, &json!("invalid_api_key")));

    // Without keys a page whose name resolves to this machine is not served.
    let server = Server::small().await;
    let url = format!("{}/v1/models", server.base);
    let rebound = server.client.get(url).header("host", "evil.example:8080").send().await.unwrap();
    assert_eq!(rebound.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_full_queue_says_so_and_who_goes_away_makes_room() {
    let server = Server::slow(Settings { parallel: 1, queue: 1, ..Default::default() }).await;
    let mut running = server.send(CHAT, &long()).await.unwrap();
    running.chunk().await.unwrap();
    server.until("running", 1).await;
    let waiting = tokio::spawn(server.send(CHAT, &long()));
    server.until("queued", 1).await;
    let refused = server.send(CHAT, &short()).await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let seconds: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds));
    assert_eq!(json_of(refused).await["error"]["code"], "rate_limit_exceeded");

    // Who waits and goes away leaves its place to another; a stream tells its beginning even there.
    drop(waiting.await.unwrap().unwrap());
    server.until("queued", 0).await;
    let next = tokio::spawn(server.send(CHAT, &short()));
    server.until("queued", 1).await;
    assert!(!next.is_finished());
    // Who is being answered and goes away frees the engine.
    let left = Instant::now();
    drop(running);
    assert_eq!(next.await.unwrap().unwrap().status(), StatusCode::OK);
    assert!(left.elapsed() < Duration::from_secs(20), "{:?}", left.elapsed());
    assert_eq!(server.metric("generations_total{end=\"cancelled\"}").await, 2);
    // The same where the answer is to come whole.
    server.until("running", 0).await;
    let whole = tokio::spawn(server.send(CHAT, &chat(json!({ "temperature": 0, "max_tokens": 16_000 }))));
    server.until("running", 1).await;
    whole.abort();
    server.until("generations_total{end=\"cancelled\"}", 3).await;
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_given_up() {
    let server = Server::slow(Settings { timeout: Duration::from_secs(1), ..Default::default() }).await;
    let whole = server.send(CHAT, &chat(json!({ "temperature": 0 }))).await.unwrap();
    assert_eq!(
        (whole.status().as_u16(), &whole.headers()["x-should-retry"]),
        (504, &"false".parse().unwrap())
    );
    assert_eq!(json_of(whole).await["error"]["code"], "timeout");
    let text = server.send(CHAT, &long()).await.unwrap().text().await.unwrap();
    let last = text.trim_end().rsplit("\n\n").next().unwrap();
    assert!(last.starts_with("data: {\"error\":") && last.contains("\"timeout\""), "{last}");
    server.until("running", 0).await;
}

#[tokio::test]
async fn a_stop_lets_answers_end_and_then_ends_them() {
    // Enough time: the answer comes whole.
    let server = Server::slow(Settings::default()).await;
    let body = chat(json!({ "temperature": 0, "max_tokens": 200 }));
    let under_way = tokio::spawn(server.send(CHAT, &body));
    server.until("running", 1).await;
    server.stop.send(true).unwrap();
    let answer = under_way.await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(json_of(answer).await["usage"]["completion_tokens"], 200);
    server.serving.await.unwrap().unwrap();

    // Too little: the answer breaks off with the reason, and nobody else is served meanwhile.
    let server = Server::slow(Settings { drain: Duration::from_millis(300), ..Default::default() }).await;
    let mut running = server.send(CHAT, &long()).await.unwrap();
    running.chunk().await.unwrap();
    let stopped = Instant::now();
    server.stop.send(true).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let late = server.send(CHAT, &short()).await;
    assert!(late.map_or(true, |r| r.status() == StatusCode::SERVICE_UNAVAILABLE));
    let text = running.text().await.unwrap();
    assert!(text.contains("the server is stopping") && !text.contains("[DONE]"), "{text}");
    server.serving.await.unwrap().unwrap();
    assert!(stopped.elapsed() < Duration::from_secs(20));
}

/// With memory for less than a context, an answer gets what there is, and what cannot be is refused by name.
#[tokio::test]
async fn less_memory_than_a_context() {
    let options = Options { threads: 1, huge_pages: false, positions: Some(128), ..Default::default() };
    let engine = Engine::new(SMALL.clone(), options).unwrap();
    let server = Server::start(&SMALL, engine, Settings::default()).await;
    let answer = server.ask(COMPLETIONS, &json!({ "model": "test", "prompt": [1, 2], "seed": 1 })).await;
    assert!(answer["usage"]["total_tokens"].as_u64().unwrap() <= 128, "{answer}");
    let (status, answer) =
        server.post(COMPLETIONS, &json!({ "model": "test", "prompt": [1, 2], "max_tokens": 200 })).await;
    assert_eq!((status.as_u16(), &answer["error"]["param"]), (400, &json!("max_tokens")), "{answer}");
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("at most 126") && message.contains("128"), "{message}");
}

/// Logprobs of a whole answer are in memory at once: so many, and no more.
#[tokio::test]
async fn logprobs_in_one_piece_are_bounded() {
    let server = Server::slow(Settings::default()).await;
    let mut body = chat(json!({ "n": 8, "logprobs": true, "top_logprobs": 20, "max_tokens": 1000 }));
    let (status, answer) = server.post(CHAT, &body).await;
    assert_eq!((status.as_u16(), &answer["error"]["param"]), (400, &json!("max_tokens")), "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("at most 780"), "{answer}");
    body["stream"] = json!(true);
    assert_eq!(server.send(CHAT, &body).await.unwrap().status(), StatusCode::OK);
}
