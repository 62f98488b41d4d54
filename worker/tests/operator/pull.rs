//! `models pull`, from a folder, from S3 and from the web.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::response::Response;
use axum::routing::get;
use axum::Router;
use deepnode_worker::model::{dequant::Encoding, synthetic};
use tokio::sync::watch;
use tokio_stream::StreamExt;

use super::{fails, gguf, succeeds, worker, PROGRAM};

#[test]
fn a_model_is_pulled_once_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    let url = format!("file://{}", gguf(folder.path()));
    let wrong = "00".repeat(32);
    assert!(fails(&home, &["models", "pull", &url, "--sha256", &wrong]).contains("not that of --sha256"));
    assert!(fails(&home, &["models", "pull", &url, "--id", &wrong]).contains("not that of --id"));
    assert!(fails(&home, &["models", "pull", "file:///no/such.gguf"]).contains("file:///no/such.gguf"));
    assert_eq!(succeeds(&home, &["models", "list"]), "");
    let out = worker(&home, &["models", "pull", &url]);
    let id = String::from_utf8(out.stdout).unwrap().trim().to_owned();
    assert_eq!(id.len(), 64);
    let sha256 = String::from_utf8(out.stderr).unwrap();
    let sha256 = sha256.lines().find_map(|line| line.strip_prefix("sha256 ")).unwrap();
    assert_eq!(succeeds(&home, &["models", "pull", &url, "--sha256", sha256, "--id", &id]).trim(), id);
    // What was imported already travels as it is.
    let imported = format!("file://{}", home.join(format!("models/{id}.dnm")).display());
    let other = folder.path().join("other");
    assert_eq!(succeeds(&other, &["models", "pull", &imported]).trim(), id);
    for home in [&home, &other] {
        let names = std::fs::read_dir(home.join("models")).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = names.filter(|name| name != ".lock").collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}

/// A store that speaks as much of S3 as reading takes: one object, for who signs.
fn store(object: Vec<u8>) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let head: Vec<String> =
                lines.map(|line| line.unwrap()).take_while(|line| !line.is_empty()).collect();
            let signed =
                head.iter().any(|line| line.to_lowercase().starts_with("authorization: aws4-hmac-sha256"));
            let (status, body): (_, &[u8]) = match head[0].split(' ').nth(1) {
                _ if !signed => ("403 Forbidden", b""),
                Some("/bucket/dir/small.gguf") => ("200 OK", &object),
                _ => ("404 Not Found", b""),
            };
            let length = body.len();
            let more = "etag: \"1\"\r\nlast-modified: Tue, 15 Nov 1994 12:45:26 GMT\r\nconnection: close";
            write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{more}\r\n\r\n").unwrap();
            if head[0].starts_with("GET") {
                let _ = stream.write_all(body);
            }
        }
    });
    endpoint
}

#[test]
fn a_model_is_pulled_from_s3() {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = store(std::fs::read(gguf(folder.path())).unwrap());
    let pull = |home: &str, url: &str| {
        Command::new(PROGRAM)
            .args(["--home", folder.path().join(home).to_str().unwrap(), "models", "pull", url])
            .envs([("AWS_ENDPOINT", endpoint.as_str()), ("AWS_ALLOW_HTTP", "true"), ("AWS_REGION", "here")])
            .envs([("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")])
            .output()
            .unwrap()
    };
    let there = pull("home", "s3://bucket/dir/small.gguf");
    assert!(there.status.success(), "{}", String::from_utf8_lossy(&there.stderr));
    assert_eq!(String::from_utf8(there.stdout).unwrap().trim().len(), 64);
    let missing = pull("home", "s3://bucket/dir/other.gguf");
    assert!(
        !missing.status.success()
            && String::from_utf8_lossy(&missing.stderr).contains("s3://bucket/dir/other.gguf")
    );
}

/// A web server of one file.
struct Web {
    /// The file and its tag.
    file: Mutex<(Vec<u8>, &'static str)>,
    /// Whether it sends parts of the file.
    ranges: bool,
    /// While true, a body stops after half the file; then it breaks off.
    stalls: watch::Sender<bool>,
    /// The parts that were asked for.
    asked: Mutex<Vec<String>>,
}

impl Web {
    fn start(file: &[u8], ranges: bool) -> (Arc<Self>, String) {
        let file = Mutex::new((file.to_vec(), "\"first\""));
        let web = Arc::new(Self { file, ranges, stalls: watch::Sender::new(false), asked: Mutex::default() });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/small.gguf", listener.local_addr().unwrap());
        listener.set_nonblocking(true).unwrap();
        let routes = Router::new().route("/small.gguf", get(Self::answer)).with_state(web.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                axum::serve(listener, routes).await.unwrap();
            });
        });
        (web, url)
    }

    async fn answer(State(web): State<Arc<Self>>, request: Request) -> Response {
        let header = |name: &str| request.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
        let (file, tag) = web.file.lock().unwrap().clone();
        if header("if-match").is_some_and(|wanted| wanted != tag) {
            return Response::builder().status(412).body(Body::empty()).unwrap();
        }
        web.asked.lock().unwrap().extend(header("range"));
        let range = header("range").filter(|_| web.ranges);
        let from: usize = range.as_ref().map_or(0, |range| {
            range.trim_start_matches("bytes=").split('-').next().unwrap().parse().unwrap()
        });
        let (total, rest) = (file.len(), file[from..].to_vec());
        let answer = Response::builder().header("etag", tag).header("content-length", rest.len());
        let answer = match range {
            Some(_) => {
                answer.status(206).header("content-range", format!("bytes {from}-{}/{total}", total - 1))
            }
            None => answer,
        };
        let mut stalls = web.stalls.subscribe();
        if !*stalls.borrow() || request.method() == Method::HEAD {
            return answer.body(Body::from(rest)).unwrap();
        }
        let half = tokio_stream::once(Ok(rest[..total / 2 - from].to_vec()));
        let broken = async move {
            stalls.wait_for(|stalls| !stalls).await.unwrap();
            Err(std::io::Error::other("broken off"))
        };
        answer.body(Body::from_stream(half.chain(futures::stream::once(broken)))).unwrap()
    }

    /// Lets a pull of this file come as far as the half.
    fn half_a_pull(&self, home: &Path, url: &str) -> Child {
        self.stalls.send_replace(true);
        let mut pull = Command::new(PROGRAM);
        pull.arg("--home").arg(home).args(["models", "pull", url]);
        let pull = pull.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let half = self.file.lock().unwrap().0.len() as u64 / 2;
        let came = || {
            let entries = std::fs::read_dir(home.join("models")).into_iter().flatten();
            entries.map(|entry| entry.unwrap().metadata().unwrap().len()).any(|length| length == half)
        };
        let begin = Instant::now();
        while !came() {
            assert!(begin.elapsed() < Duration::from_secs(20), "half the file does not come");
            std::thread::sleep(Duration::from_millis(10));
        }
        pull
    }
}

fn files(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != ".lock").collect()
}

/// A pull that is killed goes on at the next call, from a server that can; from another one it begins anew.
#[test]
fn a_pull_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let file = std::fs::read(gguf(folder.path())).unwrap();
    let id = succeeds(&folder.path().join("imported"), &["models", "import", &gguf(folder.path())]);
    for ranges in [true, false] {
        let (web, url) = Web::start(&file, ranges);
        let home = folder.path().join(format!("ranges-{ranges}"));
        assert_eq!(succeeds(&home, &["models", "pull", &url]), id);
        assert!(web.asked.lock().unwrap().is_empty());
        std::fs::remove_dir_all(&home).unwrap();

        let mut pull = web.half_a_pull(&home, &url);
        pull.kill().unwrap();
        pull.wait().unwrap();
        web.stalls.send_replace(false);
        let again = worker(&home, &["models", "pull", &url]);
        let told = String::from_utf8(again.stderr).unwrap();
        assert_eq!(String::from_utf8(again.stdout).unwrap(), id, "{told}");
        assert_eq!(*web.asked.lock().unwrap(), [format!("bytes={}-", file.len() / 2)]);
        assert_eq!(told.contains("the server sends no parts of files: beginning anew"), !ranges, "{told}");
        assert_eq!(files(&home.join("models")), [format!("{}.dnm", id.trim())]);
    }
}

/// A file of the same length takes the place of one that is being pulled: nothing of the two is mixed.
#[test]
fn a_file_that_is_replaced_is_pulled_anew() {
    let folder = tempfile::tempdir().unwrap();
    let first = std::fs::read(gguf(folder.path())).unwrap();
    let second = synthetic::gguf(&synthetic::small(), Encoding::F16, 8);
    assert!(first.len() == second.len() && first != second);
    let path = folder.path().join("second.gguf");
    std::fs::write(&path, &second).unwrap();
    let id = succeeds(&folder.path().join("imported"), &["models", "import", path.to_str().unwrap()]);
    for killed in [true, false] {
        let (web, url) = Web::start(&first, true);
        let home = folder.path().join(format!("killed-{killed}"));
        let mut pull = web.half_a_pull(&home, &url);
        if killed {
            pull.kill().unwrap();
        }
        *web.file.lock().unwrap() = (second.clone(), "\"second\"");
        web.stalls.send_replace(false);
        let mut out = pull.wait_with_output().unwrap();
        if killed {
            out = worker(&home, &["models", "pull", &url]);
        }
        let told = String::from_utf8(out.stderr).unwrap();
        assert_eq!(String::from_utf8(out.stdout).unwrap(), id, "{told}");
        assert_eq!(files(&home.join("models")), [format!("{}.dnm", id.trim())]);
    }
}
