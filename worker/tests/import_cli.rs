//! `deepnode-worker models` as a user runs it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use deepnode_worker::canon::Architecture;
use deepnode_worker::model::dequant::Encoding;
use deepnode_worker::model::synthetic;

const PROGRAM: &str = env!("CARGO_BIN_EXE_deepnode-worker");

fn models(folder: &Path, args: &[&str]) -> Output {
    Command::new(PROGRAM).current_dir(folder).args(["--home", "home", "models"]).args(args).output().unwrap()
}

fn ok(output: Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).trim().to_string();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn import_export_import() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    fs::write(file("m.gguf"), synthetic::gguf(&synthetic::small(), Encoding::Q6K, 1)).unwrap();
    let id = ok(models(folder.path(), &["import", "m.gguf"]));
    assert_eq!(id.len(), 64);
    assert!(ok(models(folder.path(), &["list"])).starts_with(&id));

    ok(models(folder.path(), &["export", &id, "--safetensors", "hf"]));
    ok(models(folder.path(), &["export", &id, "--gguf", "f16.gguf"]));
    fs::remove_dir_all(file("home")).unwrap();
    for path in ["hf", "f16.gguf"] {
        assert_eq!(ok(models(folder.path(), &["import", path])), id);
    }

    let refused = |args: &[&str], part: &str| {
        let output = models(folder.path(), args);
        let error = String::from_utf8_lossy(&output.stderr).to_string();
        assert!(!output.status.success() && error.contains(part), "{part:?} in {error:?}");
    };
    refused(&["export", &id], "--gguf");
    refused(&["export", "12", "--gguf", "x"], "must be 64 hex digits");
    refused(&["export", &id.replace(|c| c != '0', "0"), "--gguf", "x"], "No such file");
    refused(&["export", &id, "--gguf", "f16.gguf"], "f16.gguf");
    refused(&["import", "none"], "none: No such file");
}

/// A template that does not compile costs the chats alone, and is said; one that would end a process ends none.
#[test]
fn a_template_that_does_not_compile() {
    let folder = tempfile::tempdir().unwrap();
    let deep = format!("{{{{ 1{} }}}}", "+1".repeat(400_000));
    for (template, reason) in [("{% for m in messages %}", "syntax error"), (&deep, "nests values too deep")]
    {
        let gguf = folder.path().join("m.gguf");
        fs::write(&gguf, synthetic::with_template(template)).unwrap();
        let url = format!("file://{}", gguf.display());
        for args in [["import", "m.gguf"], ["pull", &url]] {
            let output = models(folder.path(), &args);
            let told = String::from_utf8_lossy(&output.stderr).to_string();
            assert!(told.contains("warning: chats will not be answered: chat template: "), "{told}");
            assert!(told.contains(reason), "{reason:?} in {told}");
            let id = ok(output);
            let chat = ["--home", "home", "chat", "--model", &id];
            let output = Command::new(PROGRAM).current_dir(folder.path()).args(chat).output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.code() == Some(1) && error.contains(reason), "{reason:?} in {error}");
        }
    }
}

/// An encoder goes in and out as a language model does; what has no use for one says so.
#[test]
fn encoders() {
    let folder = tempfile::tempdir().unwrap();
    synthetic::write_encoder(&folder.path().join("source"), &synthetic::small_encoder(), 1).unwrap();
    let id = ok(models(folder.path(), &["import", "source"]));
    assert!(ok(models(folder.path(), &["list"])).contains("source  encoder, 2 layers of 64, context 160"));
    let listed: serde_json::Value =
        serde_json::from_str(&ok(models(folder.path(), &["list", "--json"]))).unwrap();
    assert_eq!((&listed[0]["kind"], &listed[0]["architecture"]["heads"]), (&"encoder".into(), &2.into()));
    ok(models(folder.path(), &["export", &id, "--safetensors", "out"]));
    fs::remove_dir_all(folder.path().join("home")).unwrap();
    assert_eq!(ok(models(folder.path(), &["import", "out"])), id);

    let refused = |args: &[&str], part: &str| {
        let output =
            Command::new(PROGRAM).current_dir(folder.path()).args(["--home", "home"]).args(args).output();
        let output = output.unwrap();
        let error = String::from_utf8_lossy(&output.stderr).to_string();
        assert!(!output.status.success() && error.contains(part), "{part:?} in {error:?}");
    };
    refused(
        &["models", "export", &id, "--gguf", "x"],
        "is an encoder, which is exported as --safetensors alone",
    );
    refused(&["chat", "--model", &id], "is an encoder: must be a language model");
    refused(&["serve", "--listen", "127.0.0.1:0", "--model", &id, "--encoder", &id], "is an encoder itself");
}

/// Runs `deepnode-worker models` with a models folder on a disk of its own, of so many KiB: what it says, and what is left
/// in the folder. None where this user may not mount one.
fn on_a_small_disk(folder: &Path, kibibytes: u64, args: &[&str]) -> Option<(Output, Vec<String>)> {
    fs::create_dir_all(folder.join("home/models")).unwrap();
    let script = r#"mount -t tmpfs -o size="$1"k none home/models || exit 99
        shift; "$0" --home home models "$@"; code=$?; ls -A home/models >left; exit $code"#;
    let mut command = Command::new("unshare");
    command.current_dir(folder).args(["--map-root-user", "--mount", "sh", "-c", script, PROGRAM]);
    let output = command.arg(kibibytes.to_string()).args(args).output();
    let left = fs::read_to_string(folder.join("left"));
    let _ = fs::remove_file(folder.join("left"));
    match (output, left) {
        (Ok(output), Ok(left)) => Some((output, left.lines().map(str::to_owned).collect())),
        (output, _) => {
            eprintln!("no disk of its own is to be had here, so a full one was not tried: {output:?}");
            None
        }
    }
}

/// A disk without room: the message names the file and why, and nothing is left of it. Where this user may not mount a disk,
/// as in many containers, `full_disk` alone tries an import that cannot be written.
#[test]
fn no_space_left_where_a_disk_may_be_mounted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.gguf");
    let arch = Architecture { layers: 4, width: 256, ffn: 1024, ..synthetic::small() };
    fs::write(&file, synthetic::gguf(&arch, Encoding::F16, 1)).unwrap();
    let size = fs::metadata(&file).unwrap().len() >> 10;
    let url = format!("file://{}", file.display());
    // The last one has room for what is transferred, and not for what is made of it.
    for (args, room, name) in [
        (["import", "m.gguf"], size / 2, "home/models/.import-"),
        (["pull", &url], size / 2, "home/models/.pull-"),
        (["pull", &url], size + size / 2, "home/models/.import-"),
    ] {
        let Some((output, left)) = on_a_small_disk(folder.path(), room, &args) else { return };
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(name) && error.contains("No space left on device"), "{error}");
        assert_eq!(left, [".lock"].map(String::from)[usize::from(name.contains("pull"))..], "{args:?}");
    }
    let Some((output, left)) = on_a_small_disk(folder.path(), 3 * size, &["pull", &url]) else { return };
    assert_eq!(left, [".lock".to_owned(), format!("{}.dnm", ok(output))]);
}

/// A file that may not grow any further: the import says so, leaves nothing, and succeeds when it may.
#[test]
fn full_disk() {
    let folder = tempfile::tempdir().unwrap();
    let arch = Architecture { layers: 4, width: 256, ffn: 1024, ..synthetic::small() };
    fs::write(folder.path().join("m.gguf"), synthetic::gguf(&arch, Encoding::F16, 1)).unwrap();
    // No file of this shell's children grows beyond 512 KiB, and they may live to see it.
    let limited = "ulimit -f 1024; trap '' XFSZ; exec \"$0\" --home home models import m.gguf";
    let output =
        Command::new("bash").current_dir(folder.path()).args(["-c", limited, PROGRAM]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("File too large"), "{error}");
    let left: Vec<_> = fs::read_dir(folder.path().join("home/models"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name != ".lock")
        .collect();
    assert!(left.is_empty(), "{left:?}");
    ok(models(folder.path(), &["import", "m.gguf"]));
}
