//! Probabilities beside the tokens of an answer, in OpenAI's shapes. They are of the model's own distribution: the
//! logarithm of the softmax of the logits, whatever the sampling.

use std::collections::VecDeque;

use serde_json::{json, Map, Value};

use super::answer::Shape;
use crate::engine::Logprobs;
use crate::model::{TextStream, Tokenizer};

/// What stands for the logarithm of 0, which JSON has no number for; OpenAI's choice.
const LEAST: f64 = -9999.0;

/// A token of an answer, with its logarithm and those of the likeliest tokens in its place.
#[derive(Debug)]
pub struct Scored {
    piece: Vec<u8>,
    logprob: f64,
    top: Vec<(Vec<u8>, f64)>,
    /// Whole characters of the answer before it.
    offset: usize,
}

/// The scored tokens of one answer: they are told with the text that they are of.
#[derive(Debug, Default)]
pub struct Scores {
    /// Each with the byte of the answer that it begins at.
    waiting: VecDeque<(usize, Scored)>,
    text: TextStream,
    characters: usize,
}

impl Scores {
    /// The next token, whose text begins at byte `start`. One without text is left out.
    pub fn push(&mut self, tokenizer: &Tokenizer, start: usize, token: u32, logprobs: &Logprobs) {
        let piece = |token| tokenizer.piece(token).unwrap_or_default().to_vec();
        let number = |logprob: f64| if logprob.is_finite() { logprob.max(LEAST) } else { LEAST };
        let own = piece(token);
        if own.is_empty() {
            return;
        }
        let offset = self.characters;
        self.characters += self.text.push_bytes(&own).chars().count();
        let top = logprobs.top.iter().map(|(token, logprob)| (piece(*token), number(*logprob))).collect();
        let scored = Scored { piece: own, logprob: number(logprobs.token), top, offset };
        self.waiting.push_back((start, scored));
    }

    /// The tokens that begin before byte `end`, of those that were not taken yet.
    pub fn take(&mut self, end: usize) -> Vec<Scored> {
        let count = self.waiting.partition_point(|(start, _)| *start < end);
        self.waiting.drain(..count).map(|(_, scored)| scored).collect()
    }
}

/// The member `logprobs` of a choice.
pub fn to_json(shape: Shape, scored: &[Scored]) -> Value {
    match shape {
        Shape::Chat => {
            let entry = |piece: &[u8], logprob: f64| json!({ "token": string(piece), "logprob": logprob, "bytes": piece });
            let content: Vec<Value> = scored
                .iter()
                .map(|scored| {
                    let mut token = entry(&scored.piece, scored.logprob);
                    token["top_logprobs"] = scored.top.iter().map(|(piece, p)| entry(piece, *p)).collect();
                    token
                })
                .collect();
            json!({ "content": content, "refusal": null })
        }
        Shape::Completion => {
            // With the token itself, whether it is one of the likeliest or not.
            let top = |scored: &Scored| {
                let mut map = Map::new();
                for (piece, logprob) in &scored.top {
                    map.entry(string(piece)).or_insert(json!(logprob));
                }
                map.entry(string(&scored.piece)).or_insert(json!(scored.logprob));
                Value::Object(map)
            };
            json!({
                "tokens": scored.iter().map(|scored| string(&scored.piece)).collect::<Vec<_>>(),
                "token_logprobs": scored.iter().map(|scored| scored.logprob).collect::<Vec<_>>(),
                "top_logprobs": scored.iter().map(top).collect::<Vec<_>>(),
                "text_offset": scored.iter().map(|scored| scored.offset).collect::<Vec<_>>(),
            })
        }
    }
}

/// A token as text; one that is only a part of a character as its bytes, as OpenAI writes them.
fn string(piece: &[u8]) -> String {
    match std::str::from_utf8(piece) {
        Ok(text) => text.to_owned(),
        Err(_) => piece.iter().fold("bytes:".into(), |text, byte| format!("{text}\\x{byte:02x}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_characters_are_told_as_bytes() {
        assert_eq!(string("é".as_bytes()), "é");
        assert_eq!(string(&[0xe2, 0x98]), "bytes:\\xe2\\x98");
        let scored = Scored { piece: vec![0x83], logprob: -1.0, top: vec![(b"a".to_vec(), -0.5)], offset: 3 };
        let legacy = json!({
            "tokens": ["bytes:\\x83"], "token_logprobs": [-1.0], "text_offset": [3],
            "top_logprobs": [{ "a": -0.5, "bytes:\\x83": -1.0 }],
        });
        assert_eq!(to_json(Shape::Completion, &[scored]), legacy);
    }
}
