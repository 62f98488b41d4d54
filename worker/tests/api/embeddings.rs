//! /v1/embeddings, of encoders.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::Server;
use base64::prelude::{Engine as _, BASE64_STANDARD};
use deepnode_worker::canon::EncoderArchitecture;
use deepnode_worker::engine::{Embedder, Engine, Options};
use deepnode_worker::gateway::{ApiKeys, Embeddings, EncoderGateway, Gateway, Settings};
use deepnode_worker::model::{dequant::Encoding, import, synthetic, EncoderModel, Model};
use reqwest::StatusCode;
use serde_json::{json, Value};

const PATH: &str = "/v1/embeddings";

/// The folder may go: a model stays mapped.
fn model_of(arch: &EncoderArchitecture) -> Arc<EncoderModel> {
    let folder = tempfile::tempdir().unwrap();
    synthetic::write_encoder(folder.path(), arch, 7).unwrap();
    let path = import(folder.path(), &folder.path().join("models"), &|_| {}).unwrap().path;
    Arc::new(EncoderModel::open(&path).unwrap())
}

static SMALL: LazyLock<Arc<EncoderModel>> = LazyLock::new(|| model_of(&synthetic::small_encoder()));

/// One that takes some tenths of a second for its longest text.
static SLOW: LazyLock<Arc<EncoderModel>> = LazyLock::new(|| {
    let small = synthetic::small_encoder();
    model_of(&EncoderArchitecture { layers: 4, width: 256, heads: 4, ffn: 512, context: 2048, ..small })
});

fn one_thread() -> Options {
    Options { threads: 1, huge_pages: false, ..Options::default() }
}

fn served(model: &Arc<EncoderModel>, settings: &Settings) -> Arc<Embeddings> {
    Embeddings::new(model.clone(), Embedder::new(model.clone(), one_thread()).unwrap(), settings).unwrap()
}

impl Server {
    /// An encoder alone.
    async fn encoder(model: &Arc<EncoderModel>, settings: Settings) -> Self {
        let settings = Settings { name: Some("test".into()), ..settings };
        let gateway = EncoderGateway::new(served(model, &settings), settings);
        Self::listen(|listener, stop| gateway.serve(listener, stop)).await
    }

    /// The vectors of `input`, as numbers.
    async fn embed(&self, input: Value) -> Vec<Vec<f32>> {
        let (status, answer) = self.post(PATH, &json!({ "model": "test", "input": input })).await;
        assert_eq!(status, 200, "{answer}");
        answer["data"].as_array().unwrap().iter().map(|d| floats(&d["embedding"])).collect()
    }

    /// The list of models.
    async fn models(&self) -> Value {
        serde_json::from_slice(&self.get("/v1/models").await.bytes().await.unwrap()).unwrap()
    }
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

/// What the encoder itself makes of a text.
fn vector(model: &Arc<EncoderModel>, text: &str) -> Vec<f32> {
    let tokens = model.tokenizer().encode(text).unwrap();
    let embedder = Embedder::new(model.clone(), one_thread()).unwrap();
    embedder.embed(&[&tokens]).unwrap()[0].vector.iter().map(|x| x.to_f32()).collect()
}

/// A text of so many tokens, the two ends among them.
fn long(tokens: usize) -> String {
    vec!["the"; tokens - 2].join(" ")
}

#[tokio::test]
async fn vectors_in_both_encodings_of_all_kinds_of_input() {
    let server = Server::encoder(&SMALL, Settings::default()).await;
    let want = [vector(&SMALL, "The cat's hat."), vector(&SMALL, "cats")];
    assert_eq!(server.embed(json!("The cat's hat.")).await, want[..1]);
    assert_eq!(server.embed(json!(["The cat's hat.", "cats"])).await, want);
    let ids = SMALL.tokenizer().encode("cats").unwrap();
    assert_eq!(server.embed(json!(ids)).await, want[1..]);
    assert_eq!(server.embed(json!([ids, "The cat's hat."])).await, [want[1].clone(), want[0].clone()]);

    let id = hex::encode(SMALL.id());
    let request = json!({ "model": id, "input": ["cats", "The cat's hat."], "encoding_format": "base64",
        "dimensions": 64, "user": "me" });
    let (status, answer) = server.post(PATH, &request).await;
    assert_eq!((status.as_u16(), &answer["object"], &answer["model"]), (200, &json!("list"), &json!(id)));
    let tokens = ids.len() + SMALL.tokenizer().encode("The cat's hat.").unwrap().len();
    assert_eq!(answer["usage"], json!({ "prompt_tokens": tokens, "total_tokens": tokens }));
    for (n, want) in [(0, &want[1]), (1, &want[0])] {
        let data = &answer["data"][n];
        assert_eq!((&data["index"], &data["object"]), (&json!(n), &json!("embedding")));
        let bytes = BASE64_STANDARD.decode(data["embedding"].as_str().unwrap()).unwrap();
        let got: Vec<f32> = bytes.chunks(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect();
        assert_eq!(got, **want);
    }
    assert_eq!(server.metric("embedded_texts_total").await, 8);
    let models = server.models().await;
    let names: Vec<_> = models["data"].as_array().unwrap().iter().map(|m| m["id"].clone()).collect();
    assert_eq!(names, [json!("test"), json!(id)]);
    assert_eq!(server.get("/v1/models/test").await.status(), StatusCode::OK);
    assert_eq!(server.get("/health").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn what_is_refused_is_named() {
    let server = Server::encoder(&SMALL, Settings::default()).await;
    let longest = server.embed(json!(long(160))).await;
    assert_eq!(longest[0].len(), 64);
    for (field, value, status, param, part) in [
        ("input", json!(["a", long(161)]), 400, "input[1]", "input[1] has 161 tokens, the context is 160"),
        ("input", json!(vec![1; 161]), 400, "input", "input has 161 tokens, the context is 160"),
        ("input", json!([1, 300]), 400, "input[1]", "must be a token id below the vocabulary of 300"),
        ("input", json!(""), 400, "input", "empty"),
        ("input", json!([]), 400, "input", "[]"),
        ("input", json!(null), 400, "input", "missing"),
        ("input", json!(vec!["a"; 2049]), 400, "input", "at most 2048 texts"),
        ("input", json!(vec![long(160); 1900]), 400, "input", "at most 300000 tokens in one request"),
        ("encoding_format", json!("int8"), 400, "encoding_format", "float or base64"),
        ("dimensions", json!(32), 400, "dimensions", "64 elements"),
        ("dimensions", json!("64"), 400, "dimensions", "an integer"),
        ("truncate", json!(true), 400, "truncate", "not supported"),
        ("model", json!("gpt-4"), 404, "model", "must be one of test"),
        ("model", json!(null), 400, "model", "missing"),
    ] {
        let mut request = json!({ "model": "test", "input": "a" });
        request[field] = value;
        let (found, answer) = server.post(PATH, &request).await;
        let error = &answer["error"];
        assert_eq!((found.as_u16(), &error["param"]), (status, &json!(param)), "{answer}");
        assert!(error["message"].as_str().unwrap().contains(part), "{part}: {error}");
    }
    let (_, answer) = server.post(PATH, &json!({ "model": "test", "input": long(200) })).await;
    assert_eq!(answer["error"]["code"], "context_length_exceeded");
    for path in ["/v1/chat/completions", "/v1/completions"] {
        let (status, answer) =
            server.post(path, &json!({ "model": "test", "prompt": "a", "messages": [] })).await;
        assert_eq!((status.as_u16(), &answer["error"]["param"]), (400, &json!("model")), "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains("is an encoder"), "{answer}");
    }
    assert_eq!(server.get(PATH).await.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn keys_are_asked_for() {
    let settings = Settings { keys: ApiKeys::parse("sk-0123456789abcdef").unwrap(), ..Settings::default() };
    let server = Server::encoder(&SMALL, settings).await;
    let request = json!({ "model": "test", "input": "a" });
    assert_eq!(server.post(PATH, &request).await.0, 401);
    let authorised = server.client.post(format!("{}{PATH}", server.base)).bearer_auth("sk-0123456789abcdef");
    let response =
        authorised.header("content-type", "application/json").body(request.to_string()).send().await;
    assert_eq!(response.unwrap().status(), StatusCode::OK);
}

/// An encoder beside a language model: each answers for itself, and says whose the other's requests are.
#[tokio::test]
async fn beside_a_language_model() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = folder.path().join("model.gguf");
    std::fs::write(&gguf, synthetic::gguf(&synthetic::small(), Encoding::F16, 7)).unwrap();
    let text = Arc::new(Model::open(&import(&gguf, folder.path(), &|_| {}).unwrap().path).unwrap());
    let named = |name: &str| Settings { name: Some(name.into()), ..Settings::default() };
    let engine = Engine::new(text.clone(), one_thread()).unwrap();
    let embeddings = served(&SMALL, &named("test"));
    let gateway = Gateway::with(text, engine, named("talker"), Some(embeddings)).unwrap();
    let server = Server::listen(|listener, stop| gateway.serve(listener, stop)).await;

    assert_eq!(server.embed(json!("cats")).await, [vector(&SMALL, "cats")]);
    let completion = |model: &str| json!({ "model": model, "prompt": "the ", "max_tokens": 2 });
    assert_eq!(server.post("/v1/completions", &completion("talker")).await.0, 200);
    let (status, answer) = server.post("/v1/completions", &completion("test")).await;
    assert_eq!(status, 400);
    assert!(answer["error"]["message"].as_str().unwrap().contains("test is an encoder"), "{answer}");
    let (status, answer) = server.post(PATH, &json!({ "model": "talker", "input": "a" })).await;
    assert_eq!((status.as_u16(), &answer["error"]["code"]), (404, &json!("model_not_found")));
    let models = server.models().await;
    assert_eq!(models["data"].as_array().unwrap().len(), 4);
    assert_eq!(server.get("/v1/models/test").await.status(), StatusCode::OK);
    assert_eq!(server.metric("embedded_texts_total").await, 1);
    server.stop.send_replace(true);
    server.serving.await.unwrap().unwrap();
}

/// A long request does not hold up a short one; one that nobody waits for is not computed to its end; and when all
/// places are taken, the next is told to come back.
#[tokio::test]
async fn requests_take_turns_and_places_are_bounded() {
    let settings = Settings { parallel: 1, queue: 1, ..Settings::default() };
    let server = Server::encoder(&SLOW, settings).await;
    let many = json!({ "model": "test", "input": vec![long(2000); 100] });
    let running = tokio::spawn(server.send(PATH, &many));
    server.until("embedding_places", 1).await;
    assert_eq!(server.embed(json!("cats")).await, [vector(&SLOW, "cats")]);
    assert!(!running.is_finished());

    let second = tokio::spawn(server.send(PATH, &many));
    server.until("embedding_places", 2).await;
    let response = server.send(PATH, &many).await.unwrap();
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(response.headers().contains_key("retry-after"));
    for request in [running, second] {
        request.abort();
    }
    server.until("embedding_places", 0).await;
    server.embed(json!("cats")).await;
    assert!(server.metric("embedded_texts_total").await < 100);
}

#[tokio::test]
async fn late_requests_get_an_error() {
    let settings =
        Settings { timeout: Duration::from_millis(300), drain: Duration::ZERO, ..Settings::default() };
    let server = Server::encoder(&SLOW, settings.clone()).await;
    let many = json!({ "model": "test", "input": vec![long(2000); 100] });
    let (status, answer) = server.post(PATH, &many).await;
    assert_eq!((status.as_u16(), &answer["error"]["code"]), (504, &json!("timeout")));

    let server = Server::encoder(&SLOW, Settings { timeout: Duration::from_secs(600), ..settings }).await;
    let running = tokio::spawn(server.send(PATH, &many));
    server.until("embedding_places", 1).await;
    server.stop.send_replace(true);
    let response = running.await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
}
