//! Chat templates that are made to harm the program that runs them.

use std::time::{Duration, Instant};

use super::*;

/// The chat is refused by what the template does; the same server answers whatever does not need it.
async fn harms_nothing_else(template: &str, reason: &str) {
    let model = imported(&synthetic::with_template(template));
    let server = Server::start(&model, engine(&model), Settings::default()).await;
    let chat = json!({ "model": "test", "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 2 });
    let (status, answer) = server.post(CHAT, &chat).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    assert_eq!(answer["error"]["param"], "messages");
    assert_eq!(answer["error"]["code"], "invalid_value");
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("chat template: ") && message.contains(reason), "{reason:?} in {message:?}");
    let text = json!({ "model": "test", "prompt": "The sea", "max_tokens": 2 });
    assert_eq!(server.ask(COMPLETIONS, &text).await["usage"]["completion_tokens"], 2);
}

/// Few instructions, each of which takes long.
const SLOW_TEMPLATE: &str = "{% set x = 'é' * 9000000 %}{% for i in range(9000) %}{% for j in range(100) %}{% if x | length == 1 %}a{% endif %}{% endfor %}{% endfor %}";
const MEMORY: &str = "stopped: it needs more than 256 MiB of memory, or nests values too deep";

#[tokio::test(flavor = "multi_thread")]
async fn takes_all_memory() {
    let double =
        "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}";
    harms_nothing_else(double, MEMORY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn overflows_the_stack() {
    let nested = "{% set ns = namespace(x=[]) %}{% for i in range(1000) %}{% for j in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}{% endfor %}";
    harms_nothing_else(nested, MEMORY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn overflows_the_stack_when_it_is_compiled() {
    harms_nothing_else(&format!("{{{{ 1{} }}}}", "+1".repeat(400_000)), MEMORY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn takes_long() {
    harms_nothing_else(SLOW_TEMPLATE, "stopped: it takes more than 5 s").await;
}

/// Who went away while a template ran takes no thread with him: the next one is answered.
#[tokio::test(flavor = "multi_thread")]
async fn abandoned_chats_hold_nobody_up() {
    let model = imported(&synthetic::with_template(SLOW_TEMPLATE));
    let server = Server::start(&model, engine(&model), Settings::default()).await;
    let chat = json!({ "model": "test", "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 2 });
    let impatient = Duration::from_millis(100);
    let chats = (0..120).map(|_| tokio::time::timeout(impatient, server.send(CHAT, &chat)));
    assert!(join_all(chats).await.iter().all(Result::is_err), "none is answered so soon");
    let started = Instant::now();
    let text = json!({ "model": "test", "prompt": "The sea", "max_tokens": 2 });
    assert_eq!(server.ask(COMPLETIONS, &text).await["usage"]["completion_tokens"], 2);
    // Two of them were running: at most their time, on a machine that does other things too.
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn is_broken() {
    harms_nothing_else("{% for m in messages %}", "syntax error").await;
    harms_nothing_else("{{ raise_exception('roles must alternate') }}", "roles must alternate").await;
}

/// That the machine cannot run it is no fault of the request's.
#[tokio::test(flavor = "multi_thread")]
async fn cannot_be_run_here() {
    for program in ["/bin/false", "/nowhere/deepnode-worker"] {
        let gguf = synthetic::gguf(&synthetic::small(), Encoding::F16, 7);
        let model = imported_with(&gguf, Sandbox::new(program.into()));
        let server = Server::start(&model, engine(&model), Settings::default()).await;
        let (status, answer) = server.post(CHAT, &short()).await;
        assert_eq!((status.as_u16(), &answer["error"]["code"]), (500, &json!("internal_error")), "{answer}");
    }
}
