//! Answers of language models.

mod bounds;
mod templates;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock};

use super::{json_of, Server};
use deepnode_worker::canon::{Architecture, SamplingParams};
use deepnode_worker::engine::{self, Engine, Stop};
use deepnode_worker::gateway::{seed, Gateway, Settings};
use deepnode_worker::model::{dequant::Encoding, import, synthetic, ChatMessage, Model, Sandbox, TextStream};
use futures::future::join_all;
use reqwest::StatusCode;
use serde_json::{json, Value};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// Chat templates run in the program as a user has it.
fn sandbox() -> Sandbox {
    Sandbox::new(env!("CARGO_BIN_EXE_deepnode-worker").into())
}

fn model_of(arch: &Architecture) -> Arc<Model> {
    imported(&synthetic::gguf(arch, Encoding::F16, 7))
}

fn imported(gguf: &[u8]) -> Arc<Model> {
    imported_with(gguf, sandbox())
}

fn imported_with(gguf: &[u8], sandbox: Sandbox) -> Arc<Model> {
    // The folder may go: the model stays mapped.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, gguf).unwrap();
    let model = Model::open(&import(&path, folder.path(), &|_| {}).unwrap().path).unwrap();
    Arc::new(model.with_sandbox(sandbox))
}

static SMALL: LazyLock<Arc<Model>> = LazyLock::new(|| model_of(&synthetic::small()));

/// One whose longest answers take many seconds.
static SLOW: LazyLock<Arc<Model>> = LazyLock::new(|| {
    let arch = Architecture { layers: 8, width: 256, ffn: 1024, context: 1 << 14, ..synthetic::small() };
    model_of(&arch)
});

fn engine(model: &Arc<Model>) -> Engine {
    Engine::new(model.clone(), engine::Options { threads: 1, huge_pages: false, ..Default::default() })
        .unwrap()
}

impl Server {
    async fn start(model: &Arc<Model>, engine: Engine, settings: Settings) -> Self {
        let settings = Settings { name: Some("test".into()), ..settings };
        let gateway = Gateway::new(model.clone(), engine, settings).unwrap();
        Self::listen(|listener, stopped| gateway.serve(listener, stopped)).await
    }

    async fn small() -> Self {
        Self::start(&SMALL, engine(&SMALL), Settings::default()).await
    }

    async fn slow(settings: Settings) -> Self {
        Self::start(&SLOW, engine(&SLOW), settings).await
    }

    /// An answer that must be there.
    async fn ask(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.post(path, body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    /// The chunks of a stream that ends with [DONE].
    async fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let mut body = body.clone();
        body["stream"] = json!(true);
        body["stream_options"] = json!({ "include_usage": true });
        let response = self.send(path, &body).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let text = response.text().await.unwrap();
        let mut events: Vec<&str> =
            text.split_terminator("\n\n").map(|e| e.strip_prefix("data: ").unwrap()).collect();
        assert_eq!(events.pop(), Some("[DONE]"));
        events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }
}

fn chat(more: Value) -> Value {
    let mut body = json!({
        "model": "test",
        "messages": [{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "Tell me of the sea." }],
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// A request whose answer takes long.
fn long() -> Value {
    chat(json!({ "temperature": 0, "stream": true, "max_tokens": 16_000 }))
}

fn short() -> Value {
    chat(json!({ "temperature": 0, "max_tokens": 2 }))
}

/// The text of one choice of a stream.
fn streamed(chunks: &[Value], choice: u64) -> (String, Vec<&Value>) {
    let mine =
        || chunks.iter().flat_map(|c| c["choices"].as_array().unwrap()).filter(|c| c["index"] == choice);
    let text = mine().map(|c| c["delta"]["content"].as_str().or(c["text"].as_str()).unwrap_or("")).collect();
    (text, mine().map(|c| &c["finish_reason"]).filter(|r| !r.is_null()).collect())
}

#[tokio::test]
async fn one_seed_is_one_answer_whole_streamed_and_on_every_engine() {
    let server = Server::small().await;
    let request =
        chat(json!({ "temperature": 0.9, "top_p": 0.95, "top_k": 50, "seed": 7, "n": 2, "max_tokens": 24 }));
    let whole = server.ask(CHAT, &request).await;
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(whole["model"], hex::encode(SMALL.id()));
    assert_eq!(whole["system_fingerprint"], format!("canon/1-{}", hex::encode(&SMALL.id()[..8])));

    // What the engine says of the same prompt and seeds.
    let messages = [("system", "Be brief."), ("user", "Tell me of the sea.")]
        .map(|(role, content)| ChatMessage { role: role.into(), content: content.into() });
    let prompt = SMALL.tokenizer().encode_chat(&messages).unwrap();
    let direct = engine(&SMALL);
    let mut output = 0;
    for choice in 0..2u32 {
        let params = SamplingParams {
            temperature_micros: 900_000,
            top_p_micros: 950_000,
            top_k: 50,
            seed: seed(7, choice),
        };
        let ask = engine::Request { prompt: &prompt, params: &params, max_output: 24, stop: Stop::NONE };
        let mut session = direct.session(256).unwrap();
        let generation = session.generate(&ask, &mut |_| (), &AtomicBool::new(false)).unwrap();
        output += generation.tokens.len();
        let answer = &whole["choices"][choice as usize];
        assert_eq!(answer["index"], choice);
        assert_eq!(answer["message"]["role"], "assistant");
        assert_eq!(answer["message"]["content"], SMALL.tokenizer().decode(&generation.tokens));
    }
    let total = prompt.len() + output;
    assert_eq!(
        whole["usage"],
        json!({ "prompt_tokens": prompt.len(), "completion_tokens": output, "total_tokens": total })
    );
    assert_ne!(whole["choices"][0]["message"], whole["choices"][1]["message"]);

    let chunks = server.stream(CHAT, &request).await;
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({ "role": "assistant", "content": "" }));
    for choice in 0..2 {
        let (text, reasons) = streamed(&chunks, choice);
        let answer = &whole["choices"][choice as usize];
        assert_eq!(answer["message"]["content"], text);
        assert_eq!(reasons, [&answer["finish_reason"]]);
    }
    let (last, rest) = chunks.split_last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &whole["usage"]));
    assert!(rest.iter().all(|c| c["usage"].is_null() && c["object"] == "chat.completion.chunk"));

    // Another implementation, as on another machine.
    let other = Server::start(&SMALL, Engine::reference(SMALL.clone()).unwrap(), Settings::default()).await;
    assert_eq!(other.ask(CHAT, &request).await["choices"], whole["choices"]);
    let seeded = chat(json!({ "seed": 8, "max_tokens": 24 }));
    assert_ne!(server.ask(CHAT, &seeded).await["choices"][0], whole["choices"][0]);

    // A seed that was drawn is told, and gives the answer again.
    let unseeded = chat(json!({ "max_tokens": 24 }));
    let response = server.send(CHAT, &unseeded).await.unwrap();
    let drawn: i64 = response.headers()["x-deepnode-seed"].to_str().unwrap().parse().unwrap();
    let again = server.ask(CHAT, &chat(json!({ "seed": drawn, "max_tokens": 24 }))).await;
    assert_eq!(json_of(response).await["choices"], again["choices"]);
}

/// Requests that are computed together, some of them with a common beginning: each gets what it gets alone.
#[tokio::test]
async fn many_at_once_get_what_each_gets_alone() {
    let requests: Vec<Value> = (0..24)
        .map(|i| {
            let text = format!("Number {} is {}", i % 5, "very ".repeat(i % 7 * 3));
            json!({
                "model": "test", "max_tokens": 5 + i % 13, "seed": i, "n": 1 + i % 2,
                "messages": [{ "role": "user", "content": text }],
            })
        })
        .collect();
    let alone = Server::start(&SMALL, engine(&SMALL), Settings { parallel: 1, ..Default::default() }).await;
    let together = Server::small().await;
    let answers = join_all(requests.iter().map(|request| together.ask(CHAT, request))).await;
    for (request, answer) in requests.iter().zip(answers) {
        assert_eq!(alone.ask(CHAT, request).await["choices"], answer["choices"]);
    }
    together.until("running", 0).await;
}

#[tokio::test]
async fn an_answer_ends_before_its_stop_string() {
    let server = Server::small().await;
    let free = server.ask(CHAT, &chat(json!({ "seed": 3, "max_tokens": 60 }))).await;
    let text = free["choices"][0]["message"]["content"].as_str().unwrap();
    let stop = text.chars().skip(6).find(char::is_ascii_alphanumeric).unwrap().to_string();
    let expected = &text[..text.find(&stop).unwrap()];
    let request = chat(json!({ "seed": 3, "max_tokens": 60, "stop": ["never this", stop] }));
    let stopped = server.ask(CHAT, &request).await;
    assert_eq!(stopped["choices"][0]["message"]["content"], expected);
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    assert_eq!(streamed(&server.stream(CHAT, &request).await, 0).0, expected);
}

#[tokio::test]
async fn completions_take_text_or_tokens() {
    let server = Server::small().await;
    let ids = SMALL.tokenizer().encode_prompt("the sea is").unwrap();
    let ask = |prompt: Value| json!({ "model": hex::encode(SMALL.id()), "prompt": prompt, "temperature": 0 });
    let answer = server.ask(COMPLETIONS, &ask(json!("the sea is"))).await;
    assert_eq!(answer["object"], "text_completion");
    assert_eq!(answer["usage"]["prompt_tokens"], ids.len());
    assert_eq!(answer["usage"]["completion_tokens"], 16);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    for prompt in [json!(ids), json!([ids]), json!(["the sea is"])] {
        assert_eq!(server.ask(COMPLETIONS, &ask(prompt)).await["choices"], answer["choices"]);
    }
    let chunks = server.stream(COMPLETIONS, &ask(json!(ids))).await;
    assert_eq!(answer["choices"][0]["text"], streamed(&chunks, 0).0);
}

/// The logarithms of the model's probabilities after these tokens.
fn logprobs_after(tokens: &[u32]) -> Vec<f64> {
    let engine = engine(&SMALL);
    let mut session = engine.session(256).unwrap();
    session.prefill(tokens).unwrap();
    let logits = session.logits().unwrap().unwrap();
    let sum: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
    logits.iter().map(|x| f64::from(*x) - sum.ln()).collect()
}

fn close(value: &Value, expected: f64) -> bool {
    (value.as_f64().unwrap() - expected).abs() < 1e-5
}

#[tokio::test]
async fn probabilities_are_the_models_own() {
    let server = Server::small().await;
    let tokenizer = SMALL.tokenizer();
    let prompt = tokenizer.encode_prompt("the sea is").unwrap();
    let ask = |more: Value| {
        let mut body =
            json!({ "model": "test", "prompt": prompt, "max_tokens": 12, "temperature": 1.5, "seed": 3 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let answer = server.ask(COMPLETIONS, &ask(json!({ "logprobs": 2 }))).await;
    let choice = &answer["choices"][0];
    assert_eq!(server.ask(COMPLETIONS, &ask(json!({}))).await["choices"][0]["text"], choice["text"]);

    // Sampled at a high temperature, and told by the model's own distribution.
    let params = SamplingParams {
        temperature_micros: 1_500_000,
        top_p_micros: 1_000_000,
        top_k: 64,
        seed: seed(3, 0),
    };
    let request = engine::Request { prompt: &prompt, params: &params, max_output: 12, stop: Stop::NONE };
    let direct = engine(&SMALL);
    let mut session = direct.session(256).unwrap();
    let tokens = session.generate(&request, &mut |_| (), &AtomicBool::new(false)).unwrap().tokens;
    let told = &choice["logprobs"];
    let (mut text, mut stream, mut sequence, mut at) =
        (String::new(), TextStream::default(), prompt.clone(), 0);
    for token in tokens {
        let expected = logprobs_after(&sequence);
        sequence.push(token);
        let piece = tokenizer.piece(token).unwrap_or_default();
        if tokenizer.is_special(token) || piece.is_empty() {
            continue;
        }
        assert!(close(&told["token_logprobs"][at], expected[token as usize]));
        let mut best = expected.clone();
        best.sort_by(|a, b| b.total_cmp(a));
        let top = told["top_logprobs"][at].as_object().unwrap();
        assert!((2..=3).contains(&top.len()), "{top:?}");
        assert!(best[..2].iter().all(|best| top.values().any(|value| close(value, *best))), "{top:?}");
        assert_eq!(top[told["tokens"][at].as_str().unwrap()], told["token_logprobs"][at]);
        assert_eq!(told["text_offset"][at], text.chars().count());
        text += &stream.push(tokenizer, token);
        at += 1;
    }
    assert_eq!(choice["text"].as_str().unwrap(), text + &stream.finish());
    assert!(at > 3 && told["tokens"].as_array().unwrap().len() == at);
    let none = server.ask(COMPLETIONS, &ask(json!({ "logprobs": 0 }))).await;
    assert_eq!(none["choices"][0]["logprobs"]["token_logprobs"], told["token_logprobs"]);
}

#[tokio::test]
async fn probabilities_come_with_the_text_that_they_are_of() {
    let server = Server::small().await;
    let more = json!({ "seed": 3, "max_tokens": 60, "logprobs": true, "top_logprobs": 3, "n": 2 });
    let free = server.ask(CHAT, &chat(more.clone())).await;
    let text = free["choices"][0]["message"]["content"].as_str().unwrap();
    let stop: String = text.chars().skip(5).filter(char::is_ascii_alphanumeric).take(1).collect();
    let mut stopped = chat(more);
    stopped["stop"] = json!([stop, "never this"]);
    for request in [chat(json!({ "seed": 4, "max_tokens": 30, "logprobs": true })), stopped] {
        let whole = server.ask(CHAT, &request).await;
        let chunks = server.stream(CHAT, &request).await;
        for (index, choice) in whole["choices"].as_array().unwrap().iter().enumerate() {
            let content = choice["logprobs"]["content"].as_array().unwrap();
            let bytes: Vec<u8> = content
                .iter()
                .flat_map(|token| token["bytes"].as_array().unwrap())
                .map(|byte| byte.as_u64().unwrap() as u8)
                .collect();
            let text = choice["message"]["content"].as_str().unwrap();
            // The stop string may begin in the middle of the last token.
            assert!(String::from_utf8_lossy(&bytes).starts_with(text), "{choice}");
            let before_last = content.len().saturating_sub(1);
            let shorter: usize =
                content[..before_last].iter().map(|token| token["bytes"].as_array().unwrap().len()).sum();
            assert!(shorter <= text.len(), "{choice}");
            for token in content {
                let top = token["top_logprobs"].as_array().unwrap();
                assert_eq!(top.len(), request["top_logprobs"].as_u64().unwrap_or(0) as usize);
                let of = |value: &Value| value["logprob"].as_f64().unwrap();
                assert!(top.windows(2).all(|pair| of(&pair[0]) >= of(&pair[1])) && of(token) <= 0.0);
            }
            let told: Vec<Value> = chunks
                .iter()
                .flat_map(|chunk| chunk["choices"].as_array().unwrap())
                .filter(|choice| choice["index"] == index)
                .filter_map(|choice| choice["logprobs"]["content"].as_array().cloned())
                .flatten()
                .collect();
            assert_eq!(&told, content);
        }
    }
}

/// The choices of a request come at the same time, and its prompt is computed once.
#[tokio::test]
async fn choices_are_computed_together() {
    let server = Server::start(&SLOW, engine(&SLOW), Settings::default()).await;
    let mut request = chat(json!({ "seed": 1, "max_tokens": 40, "n": 8, "temperature": 1.5 }));
    request["messages"][1]["content"] = json!("many words ".repeat(60));
    let chunks = server.stream(CHAT, &request).await;
    let order: Vec<u64> = chunks
        .iter()
        .flat_map(|chunk| chunk["choices"].as_array().unwrap())
        .filter(|choice| choice["delta"]["content"].as_str().is_some_and(|text| !text.is_empty()))
        .map(|choice| choice["index"].as_u64().unwrap())
        .collect();
    let first_end = order.iter().rposition(|index| *index == 0).unwrap();
    assert!((1..8).all(|index| order[..first_end].contains(&index)), "{order:?}");
    // Each is what the seed's derivation says, whichever run beside it.
    let whole = server.ask(CHAT, &request).await;
    for index in 0..8 {
        assert_eq!(streamed(&chunks, index).0, whole["choices"][index as usize]["message"]["content"]);
    }
    let tokens: u64 = whole["usage"]["completion_tokens"].as_u64().unwrap();
    assert!(tokens > 8 * 20, "{tokens}");
    request["n"] = json!(2);
    assert_eq!(server.ask(CHAT, &request).await["choices"][1], whole["choices"][1]);
}

/// Four choices of 300 tokens: the two whole pages of the prompt are computed once, and the three others find them.
#[tokio::test]
async fn choices_share_their_prompt() {
    let server = Server::slow(Settings::default()).await;
    let prompt: Vec<u32> = (0..300).map(|i| i % 250).collect();
    let request = json!({ "model": "test", "prompt": prompt, "n": 4, "max_tokens": 2, "seed": 1 });
    let answer = server.ask(COMPLETIONS, &request).await;
    assert_eq!(answer["choices"].as_array().unwrap().len(), 4);
    assert_eq!(server.metric("prefix_pages_found_total").await, 3 * 2);
    server.until("kv_pages{use=\"held\"}", 0).await;
}

#[tokio::test]
async fn models_health_and_metrics() {
    let server = Server::small().await;
    let id = hex::encode(SMALL.id());
    let list = json_of(server.get("/v1/models").await).await;
    let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["test", &id]);
    for name in ids {
        assert_eq!(json_of(server.get(&format!("/v1/models/{name}")).await).await["root"], id);
    }
    let unknown = server.get("/v1/models/gpt-4").await;
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
    assert_eq!(json_of(unknown).await["error"]["code"], "model_not_found");
    assert_eq!(server.get("/health").await.status(), StatusCode::OK);
    server.ask(CHAT, &short()).await;
    assert!(server.metric("output_tokens_total").await >= 1);
    server.until("generations_total{end=\"finished\"}", 1).await;
    assert_eq!(server.metric("answers_total{status=\"404\"}").await, 1);
}
