//! `chat`: a conversation in the terminal.

use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use anyhow::bail;
use clap::Args;

use super::local::Local;
use super::Global;
use crate::canon::SamplingParams;
use crate::engine::{Engine, EngineError, Finish, Request, Session, Stop};
use crate::gateway::{draw_seed, seed, temperature_micros, top_p_micros, TEMPERATURE_BOUND, TOP_P_BOUND};
use crate::model::{ChatMessage, Model, TextStream};

/// Positions of a conversation's first session; it grows up to the context.
const FIRST_CAPACITY: usize = 4096;

#[derive(Debug, Args)]
pub(super) struct Chat {
    #[command(flatten)]
    local: Local,
    /// What the model is told before the conversation.
    #[arg(long)]
    system: Option<String>,
    /// 0 is greedy: always the likeliest token.
    #[arg(long, default_value = "0.7", value_parser = temperature)]
    temperature: u32,
    #[arg(long, default_value = "0.95", value_parser = top_p)]
    top_p: u32,
    /// With the same seed, the same conversation goes the same way on every machine; drawn by default.
    #[arg(long, allow_negative_numbers = true)]
    seed: Option<i64>,
    /// Most tokens of an answer.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
}

fn temperature(text: &str) -> Result<u32, String> {
    text.parse().ok().and_then(temperature_micros).ok_or_else(|| format!("must be {TEMPERATURE_BOUND}"))
}

fn top_p(text: &str) -> Result<u32, String> {
    text.parse().ok().and_then(top_p_micros).ok_or_else(|| format!("must be {TOP_P_BOUND}"))
}

impl Chat {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<()> {
        global.log();
        let (model, engine) = self.local.load(global)?;
        if model.tokenizer().spec().template.is_none() {
            bail!("this model has no chat template: it goes on from a text only (`serve`, /v1/completions)");
        }
        model.tokenizer().check_template()?;
        let seed = match self.seed {
            Some(seed) => seed,
            None => draw_seed()?,
        };
        eprintln!("{} (seed {seed}). /reset begins anew, /quit ends, Ctrl-C ends an answer.", model.name());
        let interrupted = Arc::new(AtomicBool::new(false));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let flag = interrupted.clone();
        runtime.spawn(async move {
            while tokio::signal::ctrl_c().await.is_ok() {
                flag.store(true, Ordering::Relaxed);
            }
        });
        let system = self.system.iter().map(|text| message("system", text.clone())).collect();
        Conversation {
            model: &model,
            engine: &engine,
            session: None,
            messages: system,
            params: SamplingParams {
                temperature_micros: self.temperature,
                top_p_micros: self.top_p,
                ..SamplingParams::GREEDY
            },
            seed,
            turn: 0,
            max_tokens: self.max_tokens,
        }
        .run(io::stdin().lock(), io::stdout().lock(), &interrupted)
    }
}

fn message(role: &str, content: String) -> ChatMessage {
    ChatMessage { role: role.into(), content }
}

struct Conversation<'e> {
    model: &'e Model,
    engine: &'e Engine,
    session: Option<Session<'e>>,
    messages: Vec<ChatMessage>,
    params: SamplingParams,
    seed: i64,
    /// Answers so far, since each needs a seed of its own.
    turn: u32,
    max_tokens: u32,
}

impl Conversation<'_> {
    /// Answers line by line, until /quit or the end of the input.
    fn run(
        mut self,
        mut input: impl BufRead,
        mut output: impl Write,
        interrupted: &AtomicBool,
    ) -> anyhow::Result<()> {
        let prompt = if io::stdin().is_terminal() { "\n> " } else { "" };
        let beginning = self.messages.clone();
        loop {
            write!(output, "{prompt}")?;
            output.flush()?;
            let mut line = String::new();
            if input.read_line(&mut line)? == 0 {
                return Ok(());
            }
            match line.trim() {
                "" => {}
                "/quit" | "/exit" => return Ok(()),
                "/reset" => (self.messages, self.turn) = (beginning.clone(), 0),
                command if command.starts_with('/') => eprintln!("{command} is not known: /reset, /quit"),
                text => {
                    interrupted.store(false, Ordering::Relaxed);
                    self.messages.push(message("user", text.to_string()));
                    match self.answer(&mut output, interrupted) {
                        Ok(answer) => self.messages.push(message("assistant", answer)),
                        // What could not be answered is not part of the conversation.
                        Err(error) => {
                            self.messages.pop();
                            eprintln!("error: {error:#}");
                        }
                    }
                }
            }
        }
    }

    /// Writes the answer to the messages as it comes.
    fn answer(&mut self, output: &mut impl Write, interrupted: &AtomicBool) -> anyhow::Result<String> {
        let tokenizer = self.model.tokenizer();
        let prompt = tokenizer.encode_chat(&self.messages)?;
        let (tokens, context) = (prompt.len(), self.model.arch().context as usize);
        if tokens >= context {
            bail!("the conversation has {tokens} tokens, the context is {context}: /reset begins anew");
        }
        let max_output = self.max_tokens.min((context - tokens) as u32);
        let total = tokens + max_output as usize;
        let session = match self.session.take() {
            Some(session) if session.capacity() >= total => session,
            old => {
                drop(old);
                let capacity = total.next_power_of_two().max(FIRST_CAPACITY).min(context).max(total);
                self.engine.session(capacity)?
            }
        };
        let session = self.session.insert(session);
        let params = SamplingParams { seed: seed(self.seed, self.turn), ..self.params };
        self.turn += 1;
        let request = Request { prompt: &prompt, params: &params, max_output, stop: Stop::NONE };
        let (mut answer, mut stream) = (String::new(), TextStream::whole(tokenizer));
        let mut on_token = |token| {
            if self.model.arch().eos.contains(&token) {
                return;
            }
            let text = stream.push(tokenizer, token);
            // A reader that went away ends the program at its next line.
            let _ = write!(output, "{text}").and_then(|()| output.flush());
            answer.push_str(&text);
        };
        let generated = session.generate(&request, &mut on_token, interrupted);
        let rest = stream.finish();
        let end = match &generated {
            Ok(generation) if generation.finish == Finish::Length => " [the greatest length is reached]",
            Ok(generation) if generation.finish == Finish::Numeric => " [the model's numbers overflowed]",
            Err(EngineError::Cancelled) => " [ended]",
            _ => "",
        };
        writeln!(output, "{rest}{end}")?;
        match generated {
            Ok(_) | Err(EngineError::Cancelled) => Ok(answer + &rest),
            Err(error) => Err(error.into()),
        }
    }
}
