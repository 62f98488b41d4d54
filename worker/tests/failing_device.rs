//! A device that stops working in the middle: the spare one goes on with the same bits, or everybody is told.

mod failing;

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::channel;
use std::sync::Arc;
use std::time::Duration;

use deepnode_worker::canon::random::RandomDecoder;
use deepnode_worker::canon::reference::Reference;
use deepnode_worker::canon::SamplingParams;
use deepnode_worker::engine::*;
use deepnode_worker::gateway::{Gateway, Settings};
use deepnode_worker::model::synthetic::{self, small};
use deepnode_worker::model::{dequant::Encoding, import, Model};
use serde_json::{json, Value};

use failing::Failing;

fn spare(model: &Arc<RandomDecoder>) -> Engine {
    let options = Options { threads: 1, huge_pages: false, positions: Some(4096), ..Options::default() };
    Engine::new(model.clone(), options).unwrap()
}

fn failing(model: &Arc<RandomDecoder>, calls: usize) -> Engine {
    Engine::on(Failing::new(Reference::new(model.clone()), calls))
}

/// More than one piece of logits is computed of, with beginnings in common.
fn jobs() -> Vec<Job> {
    let job = |id: u32| Job {
        prompt: (0..20 + id % 3 * 9).map(|i| (i * 7 + id % 2) % 190).collect(),
        params: SamplingParams {
            temperature_micros: 900_000,
            top_p_micros: 0,
            top_k: 0,
            seed: [id as u8; 32],
        },
        max_output: 1 + id % 7,
        stop: Vec::new(),
        logprobs: None,
    };
    (0..20).map(job).collect()
}

fn alone(engine: &Engine, job: &Job) -> Generation {
    let mut session = engine.session(200).unwrap();
    let request =
        Request { prompt: &job.prompt, params: &job.params, max_output: job.max_output, stop: Stop::NONE };
    session.generate(&request, &mut |_| (), &AtomicBool::new(false)).unwrap()
}

#[test]
fn the_spare_device_goes_on_with_the_same_bits() {
    let model = Arc::new(RandomDecoder::new(small(), 1));
    let pieces: Vec<String> = vec![String::new(); 288];
    let truth = spare(&model);
    let expected: Vec<Generation> = jobs().iter().map(|job| alone(&truth, job)).collect();
    let mut fell = 0;
    for calls in 0..24 {
        let spares = model.clone();
        let engine = failing(&model, calls).with_spare(move || Ok(spare(&spares)));
        let mut batch = Batch::new(&engine, &pieces, Limits::default());
        for (id, job) in (0..).zip(jobs()) {
            batch.push(id, job).unwrap();
        }
        let mut told: Vec<Vec<u32>> = vec![Vec::new(); 20];
        let mut ends: Vec<Option<Generation>> = vec![None; 20];
        while !batch.is_empty() {
            batch
                .step(&mut |id, event| match event {
                    Event::Token { token, .. } => told[id as usize].push(token),
                    Event::Finished(end) => assert!(ends[id as usize].replace(end).is_none()),
                })
                .unwrap();
        }
        for (i, expected) in expected.iter().enumerate() {
            assert_eq!(ends[i].as_ref(), Some(expected), "after {calls} calls, job {i}");
            assert_eq!(told[i], expected.tokens);
        }
        fell += usize::from(engine.fell_over());
    }
    assert!(fell > 10, "{fell}");
}

/// What was told as a token before the device failed keeps its end, where the token was the last one.
#[test]
fn without_a_spare_everybody_is_told_and_nobody_hangs() {
    let model = Arc::new(RandomDecoder::new(small(), 1));
    let truth = spare(&model);
    let expected: Vec<Generation> = jobs().iter().map(|job| alone(&truth, job)).collect();
    for calls in [0, 1, 2, 3, 5, 8] {
        let pieces: Arc<Vec<String>> = Arc::new(vec![String::new(); 288]);
        let engine = Arc::new(failing(&model, calls));
        let runner = Runner::start(engine, pieces, Limits::default(), |_| ()).unwrap();
        for _ in 0..2 {
            let (sender, events) = channel();
            let tickets: Vec<Ticket> = (0..)
                .zip(jobs())
                .map(|(id, job)| {
                    let sender = sender.clone();
                    runner.submit(job, move |event| sender.send((id, event)).unwrap())
                })
                .collect();
            drop(sender);
            let mut open: Vec<usize> = (0..20).collect();
            let mut failed = 0;
            while !open.is_empty() {
                let (id, event) = events.recv_timeout(Duration::from_secs(20)).expect("nobody hangs");
                let end = match event {
                    Ok(Event::Token { .. }) => continue,
                    Ok(Event::Finished(end)) => Some(end),
                    Err(Failure::Engine(EngineError::Device(error))) => {
                        assert!(error.to_string().contains("fell off the bus"));
                        failed += 1;
                        None
                    }
                    Err(other) => panic!("{other:?}"),
                };
                assert!(end.is_none_or(|end| end == expected[id]));
                open.retain(|other| *other != id);
            }
            assert!(failed > 0, "after {calls} calls");
            drop(tickets);
        }
    }
}

#[test]
fn audits_go_on_with_the_spare_device() {
    let model = Arc::new(RandomDecoder::new(small(), 1));
    let truth = spare(&model);
    let job = jobs().remove(6);
    let made = alone(&truth, &job);
    let request =
        Request { prompt: &job.prompt, params: &job.params, max_output: job.max_output, stop: Stop::NONE };
    let question = Question { claim: Claim::of(request, &made), beacon: [1; 32], receipt: [2; 32] };
    let never = AtomicBool::new(false);
    let expected = truth.audit(&question, &never).unwrap();
    assert!(expected.agrees());
    for calls in 0..4 {
        assert!(matches!(failing(&model, 0).audit(&question, &never), Err(EngineError::Device(_))));
        let spares = model.clone();
        let engine = failing(&model, calls).with_spare(move || Ok(spare(&spares)));
        assert_eq!(engine.audit(&question, &never).unwrap(), expected);
    }
}

#[tokio::test]
async fn users_of_the_api_notice_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = folder.path().join("model.gguf");
    std::fs::write(&gguf, synthetic::gguf(&small(), Encoding::F16, 7)).unwrap();
    let model = Arc::new(Model::open(&import(&gguf, folder.path(), &|_| {}).unwrap().path).unwrap());
    let options = Options { threads: 1, huge_pages: false, ..Options::default() };
    let spares = model.clone();
    let broken = Engine::on(Failing::new(Reference::new(model.clone()), 21))
        .with_spare(move || Engine::new(spares.clone(), options));
    let mut answers = Vec::new();
    for engine in [broken, Engine::new(model.clone(), options).unwrap()] {
        let gateway = Gateway::new(model.clone(), engine, Settings::default()).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/v1", listener.local_addr().unwrap());
        let (_stop, stopped) = tokio::sync::watch::channel(false);
        let serving = tokio::spawn(gateway.clone().serve(listener, stopped));
        let body = json!({ "model": hex::encode(model.id()), "prompt": "the sea", "max_tokens": 40, "seed": 1, "n": 3 });
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client.post(format!("{base}/completions")).header("content-type", "application/json");
        let text = request.body(body.to_string()).send().await.unwrap().text().await.unwrap();
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert!(answer["usage"]["completion_tokens"].as_u64().unwrap() > 60, "{answer}");
        answers.push(answer["choices"].clone());
        let fell_over = gateway.metrics().contains("deepnode_worker_gateway_device_failed 1");
        assert_eq!(fell_over, answers.len() == 1);
        serving.abort();
    }
    assert_eq!(answers[0], answers[1]);
}
