//! The operator's commands, as the program that is installed.

mod pull;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::Arc;

use deepnode_worker::canon::SamplingParams;
use deepnode_worker::engine::{Engine, Options, Request, Stop};
use deepnode_worker::model::{dequant::Encoding, synthetic, ChatMessage, Model, Sandbox};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_deepnode-worker");

fn worker(home: &Path, args: &[&str]) -> Output {
    Command::new(PROGRAM).arg("--home").arg(home).args(args).stdin(Stdio::null()).output().unwrap()
}

/// What a command that must succeed prints.
fn succeeds(home: &Path, args: &[&str]) -> String {
    let out = worker(home, args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Why a command fails.
fn fails(home: &Path, args: &[&str]) -> String {
    let out = worker(home, args);
    assert!(!out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stdout));
    String::from_utf8(out.stderr).unwrap()
}

fn gguf(folder: &Path) -> String {
    let path = folder.join("small.gguf");
    std::fs::write(&path, synthetic::gguf(&synthetic::small(), Encoding::F16, 7)).unwrap();
    path.display().to_string()
}

#[test]
fn the_doctor_names_what_is_to_be_mended() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    let out = worker(&home, &["doctor"]);
    assert_eq!(out.status.code(), Some(1));
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.contains("MEND     home") && text.contains("deepnode-worker init"), "{text}");

    // A port that is taken, a node that is away, no model.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let init =
        ["init", "--chain-id", "dn-1", "--keyring-backend", "test", "--node", "127.0.0.1:1", "--comet", ""];
    succeeds(&home, &[&init[..], &["--listen", &listen, "--metrics", "", "--device", "cuda:99"]].concat());
    let out = worker(&home, &["doctor", "--json"]);
    assert_eq!(out.status.code(), Some(1));
    let checks: Vec<Value> = serde_json::from_slice(&out.stdout).unwrap();
    let state = |name: &str| {
        let check = checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name}"));
        (check["state"].as_str().unwrap(), check["remedy"].as_str().unwrap_or_default())
    };
    assert_eq!(state("home").0, "ok");
    assert_eq!(state("key").0, "warning");
    // No machine of ours has a hundred cards.
    let wanted =
        [("models", "models pull"), ("port", "ss -ltnp"), ("node", "worker.toml"), ("gpu", "device")];
    for (name, remedy) in wanted {
        let (state, found) = state(name);
        assert!(state == "mend" && found.contains(remedy), "{name}: {found}");
    }

    // A gateway has its answers computed by others, and listens elsewhere.
    let out = worker(&home, &["doctor", "--for", "gateway", "--json"]);
    let checks: Vec<Value> = serde_json::from_slice(&out.stdout).unwrap();
    let mended = checks.iter().filter(|check| check["state"] == "mend").map(|check| &check["name"]);
    assert_eq!(mended.collect::<Vec<_>>(), ["models", "node"]);

    let model = gguf(folder.path());
    let refused = fails(&home, &["bench", "--model", &model, "--device", "cuda:99"]);
    assert!(refused.contains("device is cuda:99"), "{refused}");

    // A template that does not compile costs the chats alone.
    let broken = synthetic::with_template("{% for m in messages %}");
    std::fs::write(folder.path().join("broken.gguf"), broken).unwrap();
    let id = succeeds(&home, &["models", "import", folder.path().join("broken.gguf").to_str().unwrap()]);
    let told = succeeds_or_not(&home);
    assert!(told.contains("ok       model") && told.contains("warning  template"), "{told}");
    std::fs::remove_file(home.join("models").join(format!("{}.dnm", id.trim()))).unwrap();

    // A model file that was cut off.
    let id = succeeds(&home, &["models", "import", &model]);
    let path = home.join("models").join(format!("{}.dnm", id.trim()));
    assert!(succeeds_or_not(&home).contains("ok       model"));
    let length = std::fs::metadata(&path).unwrap().len();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(length - 1).unwrap();
    assert!(succeeds_or_not(&home).contains("MEND     model"));
}

fn succeeds_or_not(home: &Path) -> String {
    String::from_utf8(worker(home, &["doctor", "--weights"]).stdout).unwrap()
}

#[test]
fn the_doctor_looks_at_a_gateways_port_and_keys() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    let look = |listen: &str, with_keys: bool| -> Vec<(String, String)> {
        let mut args = vec!["doctor", "--json", "--gateway", listen];
        if with_keys {
            args.extend(["--api-key-file", keys.to_str().unwrap()]);
        }
        let checks: Vec<Value> = serde_json::from_slice(&worker(folder.path(), &args).stdout).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let of = |name: &'static str| checks.iter().filter(move |check| check["name"] == name);
        of("port").chain(of("api keys")).map(|check| (text(&check["state"]), text(&check["found"]))).collect()
    };
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (local, open) = (free.to_string(), format!("0.0.0.0:{}", free.port()));
    assert_eq!(look(&local, false), [("ok".into(), format!("gateway {local} is free"))]);
    let strangers = look(&open, false);
    assert!(strangers[1].0 == "mend" && strangers[1].1.contains("must be on loopback"), "{strangers:?}");

    let absent = look(&open, true);
    assert!(absent[1].0 == "mend" && absent[1].1.contains("No such file"), "{absent:?}");
    std::fs::write(&keys, "short\n").unwrap();
    assert_eq!(look(&open, true)[1].0, "mend");
    std::fs::write(&keys, "0123456789abcdef0123456789abcdef\n").unwrap();
    for (mode, state) in [(0o644, "warning"), (0o600, "ok")] {
        std::fs::set_permissions(&keys, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        assert_eq!(look(&open, true)[1].0, state);
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let held = std::net::TcpListener::bind(taken).unwrap();
    let found = look(&taken.to_string(), false);
    assert!(found[0].0 == "mend" && found[0].1.contains(&taken.to_string()), "{found:?}");
    drop(held);
}

#[test]
fn the_bench_measures() {
    let folder = tempfile::tempdir().unwrap();
    let model = gguf(folder.path());
    let report = succeeds(folder.path(), &["bench", "--model", &model, "--threads", "1", "--json"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    let mut figures = report["figures"].as_object().unwrap().clone();
    figures.extend(figures["memory"].as_object().unwrap().clone());
    figures.remove("memory");
    for (name, figure) in figures {
        assert!(figure.as_f64().unwrap() > 0.0, "{name} in {report}");
    }
    assert!(report["earnings"]["error"].as_str().unwrap().contains("--node HOST:PORT"), "{report}");
    let text =
        succeeds(folder.path(), &["bench", "--model", &model, "--threads", "1", "--node", "127.0.0.1:1"]);
    assert!(text.contains("CU/s") && text.contains("no node answers"), "{text}");
    assert!(text.contains("\naudit  ") && text.contains("ms that the answer takes"), "{text}");
}

#[test]
fn logs_are_json_lines_and_sigterm_ends_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Command::new(PROGRAM)
        .args(["--log-format", "json", "serve", "--listen", "127.0.0.1:0", "--threads", "1", "--model"])
        .arg(gguf(folder.path()))
        .arg("--home")
        .arg(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut url = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut url).unwrap();
    let address = url.trim().strip_prefix("http://").and_then(|url| url.strip_suffix("/v1")).unwrap();
    let ask = |path: &str, body: &str| {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let length = body.len();
        let head = "host: localhost\r\ncontent-type: application/json\r\nconnection: close";
        write!(stream, "POST {path} HTTP/1.1\r\n{head}\r\ncontent-length: {length}\r\n\r\n{body}").unwrap();
        std::io::read_to_string(stream).unwrap()
    };
    let model = folder.path().join("models").read_dir().unwrap().find_map(|entry| {
        entry.unwrap().file_name().to_str().and_then(|name| name.strip_suffix(".dnm")).map(str::to_owned)
    });
    let model = model.unwrap();
    for more in ["", r#", "stream": true"#] {
        let body =
            format!(r#"{{"model": "{model}", "prompt": "secret", "max_tokens": 3, "temperature": 0{more}}}"#);
        let answer = ask("/v1/completions", &body);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert!(ask("/v1/chat/completions", "{}").starts_with("HTTP/1.1 400"));
    assert!(ask("/v1/secret", "{}").starts_with("HTTP/1.1 404"));
    // SAFETY: the process is a child of ours that was not waited for yet.
    unsafe { libc::kill(server.id() as i32, libc::SIGTERM) };
    let out = server.wait_with_output().unwrap();
    assert!(out.status.success());
    let log = String::from_utf8(out.stderr).unwrap();
    let lines: Vec<Value> = log
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(lines.iter().any(|line| line["fields"]["message"] == "serving"), "{log}");
    assert!(lines.iter().any(|line| line["fields"]["message"] == "stopped"), "{log}");
    // One line a request, which has no text of it.
    let told = |line: &Value| {
        let fields = &line["fields"];
        assert!(fields["milliseconds"].is_u64() && fields["method"] == "POST", "{fields}");
        let tokens = [&fields["prompt_tokens"], &fields["output_tokens"]].map(Value::as_u64);
        (fields["path"].as_str().unwrap().to_owned(), fields["status"].as_u64().unwrap(), tokens)
    };
    let answered: Vec<_> =
        lines.iter().filter(|line| line["fields"]["message"] == "answered").map(told).collect();
    let whole = ("/v1/completions".into(), 200, [Some(6), Some(3)]);
    let refused = ("/v1/chat/completions".into(), 400, [None, None]);
    let unknown = ("unknown".into(), 404, [None, None]);
    assert_eq!(answered, [whole.clone(), whole, refused, unknown], "{log}");
    assert!(!log.contains("secret"), "{log}");
}

/// What `chat` prints where lines come by a pipe.
fn chat(home: &Path, args: &[&str], lines: &str) -> Output {
    let mut child = Command::new(PROGRAM)
        .arg("--home")
        .arg(home)
        .args(["chat", "--threads", "1"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_conversation_by_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let id = succeeds(folder.path(), &["models", "import", &gguf(folder.path())]).trim().to_owned();
    let model = Model::open(&folder.path().join(format!("models/{id}.dnm"))).unwrap();
    let model = Arc::new(model.with_sandbox(Sandbox::new(PROGRAM.into())));
    let options = Options { threads: 1, huge_pages: false, ..Options::default() };
    let engine = Engine::new(model.clone(), options).unwrap();
    // The bytes of an answer of six tokens, whatever they are as text.
    let answer = |messages: &[ChatMessage]| {
        let tokenizer = model.tokenizer();
        let prompt = tokenizer.encode_chat(messages).unwrap();
        let params = &SamplingParams::GREEDY;
        let request = Request { prompt: &prompt, params, max_output: 6, stop: Stop::NONE };
        let mut session = engine.session(prompt.len() + 6).unwrap();
        let made = session.generate(&request, &mut |_| (), &AtomicBool::new(false)).unwrap();
        assert_eq!(made.tokens.len(), 6, "it does not end of itself");
        tokenizer.decode(&made.tokens)
    };
    let message = |role: &str, content: &str| ChatMessage { role: role.into(), content: content.into() };
    let system = message("system", "Be brief.");
    let first = answer(&[system.clone(), message("user", "the sea")]);
    let second = answer(&[
        system.clone(),
        message("user", "the sea"),
        message("assistant", &first),
        message("user", "and the sky"),
    ]);
    let afresh = answer(&[system, message("user", "and the sky")]);
    assert!(first != second && second != afresh);

    let args = ["--model", &id, "--system", "Be brief.", "--temperature", "0", "--max-tokens", "6"];
    let out = chat(folder.path(), &args, "the sea\n\nand the sky\n/what\n/reset\nand the sky\n");
    let said = |out: &Output| String::from_utf8(out.stdout.clone()).unwrap();
    let end = " [the greatest length is reached]\n";
    assert!(out.status.success());
    assert_eq!(said(&out), format!("{first}{end}{second}{end}{afresh}{end}"));
    let notes = String::from_utf8_lossy(&out.stderr);
    assert!(notes.contains("/reset begins anew") && notes.contains("/what is not known"), "{notes}");

    // With the same seed the same conversation again; what comes behind /quit is not read.
    let seeded = ["--model", &id, "--seed", "5", "--max-tokens", "6"];
    let [once, again] = [0, 1].map(|_| chat(folder.path(), &seeded, "the sea\nthe sea\n/quit\nthe sea\n"));
    assert!(once.status.success() && said(&once) == said(&again), "{} and {}", said(&once), said(&again));
    assert_eq!(said(&once).matches(end.trim()).count(), 2, "{}", said(&once));
}

/// A second process with a key: it says so, before it asks the chain anything.
#[test]
fn one_key_one_process() {
    for command in ["run", "verify"] {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("home");
        // A node that takes connections and never answers.
        let node = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = node.local_addr().unwrap().to_string();
        let init = ["init", "--chain-id", "dn-1", "--keyring-backend", "test", "--comet", "", "--node"];
        succeeds(&home, &[&init[..], &[&address]].concat());
        succeeds(&home, &["models", "import", &gguf(folder.path())]);
        let mut first = Command::new(PROGRAM);
        first.arg("--home").arg(&home).arg(command).stdout(Stdio::null()).stderr(Stdio::null());
        let mut first = first.spawn().unwrap();
        // It has come as far as the chain.
        let _asked = node.accept().unwrap();

        let second = worker(&home, &[command]);
        let error = String::from_utf8_lossy(&second.stderr);
        assert_eq!(second.status.code(), Some(1), "{error}");
        let refused = format!("{command}-worker.lock is in use: another process works with this key");
        assert!(error.contains(&refused), "{error}");
        node.set_nonblocking(true).unwrap();
        assert_eq!(node.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        first.kill().unwrap();
        first.wait().unwrap();
    }
}

#[test]
fn watching_needs_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    succeeds(folder.path(), &["init", "--chain-id", "dn-1", "--keyring-backend", "test"]);
    assert!(fails(folder.path(), &["status", "--watch"]).contains("needs a terminal"));
}

#[test]
fn two_machines_find_where_they_part() {
    let folder = tempfile::tempdir().unwrap();
    let (home, model) = (folder.path().join("home"), gguf(folder.path()));
    let file = |name: &str| folder.path().join(name).display().to_string();
    let record = |name: &str, args: &[&str]| {
        let fixed = ["trace", "record", "--model", &model, "--prompt", "the theme", "--max-tokens", "3"];
        succeeds(&home, &[&fixed[..], args, &[&file(name)]].concat())
    };
    let said = record("a", &["--engine", "reference", "--values", "1.key"]);
    assert!(said.contains("20 tensors over") && said.contains("by reference"), "{said}");
    record("b", &["--engine", "portable", "--threads", "2", "--values", "all"]);
    let equal = succeeds(&home, &["trace", "diff", &file("a"), &file("b")]);
    assert!(equal.contains("equal in 20 tensors"), "{equal}");

    // Another machine, whose memory flipped a bit of a key.
    let mut other: Value = serde_json::from_slice(&std::fs::read(file("a")).unwrap()).unwrap();
    let tensor = other["claims"].as_array_mut().unwrap().iter_mut().find(|c| c["tensor"] == "1.key").unwrap();
    let mut row = hex::decode(tensor["values"][2].as_str().unwrap()).unwrap();
    row[8] ^= 1;
    tensor["values"][2] = hex::encode(&row).into();
    tensor["rows"][2] = hex::encode(blake3::hash(&row).as_bytes()).into();
    std::fs::write(file("c"), other.to_string()).unwrap();
    let diff = |a: &str, b: &str| {
        let out = worker(&home, &["trace", "diff", &file(a), &file(b)]);
        assert_eq!(out.status.code(), Some(1));
        String::from_utf8(out.stdout).unwrap()
    };
    let text = diff("b", "c");
    assert!(text.contains("1.key") && text.contains("its root is not that of its rows"), "{text}");
    let tensor = other["claims"].as_array_mut().unwrap().iter_mut().find(|c| c["tensor"] == "1.key").unwrap();
    let rows: Vec<Vec<u8>> = tensor["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| hex::decode(row.as_str().unwrap()).unwrap())
        .collect();
    tensor["root"] = hex::encode(deepnode_worker::canon::commit::merkle_root(&rows)).into();
    std::fs::write(file("c"), other.to_string()).unwrap();
    let text = diff("b", "c");
    assert!(text.contains("tensor 1.key, position 2, element 4:"), "{text}");

    let refused = |args: &[&str], part: &str| {
        let error =
            fails(&home, &[&["trace", "record", "--model", &model][..], args, &[&file("d")]].concat());
        assert!(error.contains(part), "{part:?} in {error:?}");
    };
    refused(&[], "--prompt");
    refused(&["--tokens", "1,9999"], "below the vocabulary of 288");
    refused(&["--tokens", "1", "--engine", "abacus"], "must be auto, cpu, cuda");
    refused(&["--tokens", "1", "--values", "9.key"], "the model has 2 layers");
    refused(&["--tokens", "1", "--values", "key"], "must be LAYER.NAME");
}
