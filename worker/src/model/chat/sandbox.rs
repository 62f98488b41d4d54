//! A process for each run of a template.
//!
//! Jinja's interpreter counts the instructions of a template, but a few of them can take all memory or nest a value until
//! the stack overflows, and either ends the process. So it is not this one: the same program is started with a command
//! that nobody types, bounds itself, reads one job and answers it. docs/decisions/0009-templates-in-a-sandbox.md

use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};

use super::{jinja, Job};
use crate::model::error::{ModelError, Result};
use crate::model::tokenizer::MAX_TEXT;

/// The command of a program that does the other side: see [`serve`].
pub const COMMAND: &str = "render-template";
/// Address space of a rendering process, in bytes: the program itself and ten times the longest chat fit.
const MEMORY: u64 = 256 << 20;
/// Of its stack, in bytes.
const STACK: u64 = 8 << 20;
/// Processor time of one rendering; a chat of the greatest length takes 33 ms.
const CPU_SECONDS: u64 = 5;
/// How much more of all that an audit gives: what a worker's sandbox rendered does not come near the bounds of an
/// auditor's, whatever their machines, and what exceeds these a worker had to decline.
const AUDIT_ROOM: u32 = 4;
/// Greatest length of an answer, in bytes: a mark and a prompt.
const MAX_ANSWER: u64 = 1 + MAX_TEXT as u64;
/// The first byte of an answer that is a prompt, and of one that is what is wrong with the template.
const PROMPT: u8 = b'+';
const REASON: u8 = b'-';

/// Where templates are run.
#[derive(Clone, Debug)]
pub struct Sandbox {
    program: PathBuf,
    /// Times `MEMORY`, `STACK` and `CPU_SECONDS`.
    room: u32,
}

impl Sandbox {
    /// In processes of the program at this path, which must know [`COMMAND`].
    pub fn new(program: PathBuf) -> Self {
        Self { program, room: 1 }
    }

    /// In processes of this program, which must know [`COMMAND`]. It is found even if its file was replaced by a newer
    /// one.
    pub fn this_program() -> Self {
        Self::new("/proc/self/exe".into())
    }

    /// With an auditor's room.
    pub fn for_audits(self) -> Self {
        Self { room: AUDIT_ROOM, ..self }
    }

    /// What the job asks for. The error is `Template` if that is what the template says on every machine, `Stopped` if it
    /// takes too much, and another if it is not the template's.
    pub(in crate::model) fn run(&self, job: &Job) -> Result<String> {
        let fault = |error| ModelError::Io { path: self.program.clone(), error };
        let job = serde_json::to_vec(job).map_err(|e| fault(e.into()))?;
        let mut child = Command::new(&self.program)
            .args([COMMAND, "--room", &self.room.to_string()])
            .env_clear()
            // Ctrl-C in a terminal is for this process: what is under way comes to its end.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(fault)?;
        // A job that is not read to its end shows in the exit status.
        let _ = child.stdin.take().map(|mut pipe| pipe.write_all(&job));
        let mut output = Vec::new();
        let read = child.stdout.take().map(|pipe| pipe.take(MAX_ANSWER).read_to_end(&mut output));
        let status = child.wait().map_err(fault)?;
        read.transpose().map_err(fault)?;
        if !status.success() {
            return Err(self.stopped(status));
        }
        let text = |bytes: &[u8]| {
            String::from_utf8(bytes.to_vec()).map_err(|e| ModelError::Sandbox(format!("its answer: {e}")))
        };
        match output.split_first() {
            Some((&PROMPT, prompt)) => text(prompt),
            Some((&REASON, reason)) => Err(ModelError::Template(text(reason)?)),
            _ => Err(ModelError::Sandbox(format!("{} does not know {COMMAND}", self.program.display()))),
        }
    }

    /// Why a rendering process came to no answer.
    fn stopped(&self, status: ExitStatus) -> ModelError {
        match status.signal() {
            Some(libc::SIGABRT | libc::SIGSEGV | libc::SIGBUS) => ModelError::Stopped(format!(
                "stopped: it needs more than {} MiB of memory, or nests values too deep",
                u64::from(self.room) * (MEMORY >> 20)
            )),
            Some(libc::SIGXCPU) => ModelError::Stopped(format!(
                "stopped: it takes more than {} s",
                u64::from(self.room) * CPU_SECONDS
            )),
            _ => ModelError::Sandbox(format!("ended by the system: {status}")),
        }
    }
}

/// The rendering process: bounds itself, reads a job from standard input and writes the answer to standard output.
pub fn serve(room: u32) -> io::Result<()> {
    let room = u64::from(room);
    bound(Resource::As, room * MEMORY)?;
    bound(Resource::Stack, room * STACK)?;
    bound(Resource::Cpu, room * CPU_SECONDS)?;
    // A process that was stopped leaves no file behind.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    let mut job = Vec::new();
    io::stdin().lock().read_to_end(&mut job)?;
    let done = match serde_json::from_slice(&job) {
        Ok(job) => jinja::run(&job),
        // Its values were read as JSON before, and may lie deeper here.
        Err(error) => Err(ModelError::Template(format!("its messages: {error}"))),
    };
    let (mark, text) = match done {
        Ok(prompt) => (PROMPT, prompt),
        Err(ModelError::Template(reason)) => (REASON, reason),
        Err(other) => return Err(io::Error::other(other)),
    };
    let mut output = io::stdout().lock();
    output.write_all(&[mark])?;
    output.write_all(text.as_bytes())?;
    output.flush()
}

/// Sets a limit of this process, which must be allowed that much: with less, an error would say nothing of the template.
/// Behind the soft limit, whose signal may be ignored, a hard one follows.
fn bound(resource: Resource, most: u64) -> io::Result<()> {
    let allowed = getrlimit(resource).maximum;
    if allowed.is_some_and(|allowed| allowed < most) {
        let text = format!("the limit of {resource:?} is {allowed:?}, must be at least {most}");
        return Err(io::Error::other(text));
    }
    let maximum = Some(allowed.map_or(most + 1, |allowed| allowed.min(most + 1)));
    Ok(setrlimit(resource, Rlimit { current: Some(most), maximum })?)
}
