//! When a generation ends. Workers and auditors ask the same code.

use super::error::EngineError;
use crate::model::{Model, Tokenizer};

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finish {
    /// The last token is one of the model's end tokens.
    Eos,
    /// The greatest output was reached.
    Length,
    /// With the last token the output holds a stop string.
    Stop,
    /// The next position made a store that is not finite.
    Numeric,
}

/// The bytes that a token decodes to.
pub trait Pieces: Sync {
    /// The bytes of token `id`; none for an id that is no token.
    fn piece(&self, id: u32) -> &[u8];
}

impl Pieces for Tokenizer {
    fn piece(&self, id: u32) -> &[u8] {
        Tokenizer::piece(self, id).unwrap_or_default()
    }
}

impl Pieces for Model {
    fn piece(&self, id: u32) -> &[u8] {
        Pieces::piece(self.tokenizer(), id)
    }
}

impl<T: AsRef<[u8]> + Sync> Pieces for Vec<T> {
    fn piece(&self, id: u32) -> &[u8] {
        self.get(id as usize).map_or(&[], T::as_ref)
    }
}

/// Strings that end a generation: at the first token at which the joined bytes of the output's pieces hold one.
#[derive(Clone, Copy)]
pub struct Stop<'a> {
    pub strings: &'a [String],
    pub pieces: &'a dyn Pieces,
}

impl Stop<'_> {
    /// No stop strings.
    pub const NONE: Stop<'static> = Stop { strings: &[], pieces: &Vec::<Vec<u8>>::new() };
}

/// Follows an output to its end.
pub(super) struct Ending<'p> {
    eos: Vec<u32>,
    left: u32,
    strings: Vec<String>,
    pieces: &'p dyn Pieces,
    /// The end of the joined bytes: whatever a stop string that is not complete yet could begin in.
    tail: Vec<u8>,
}

impl<'p> Ending<'p> {
    /// Follows an output of at most `max_output` tokens, at least 1.
    pub fn new(
        eos: &[u32],
        max_output: u32,
        strings: &[String],
        pieces: &'p dyn Pieces,
    ) -> Result<Self, EngineError> {
        if max_output == 0 {
            return Err(EngineError::invalid("max_output", 0, "at least 1"));
        }
        if strings.iter().any(String::is_empty) {
            return Err(EngineError::invalid("stop", "\"\"", "strings that are not empty"));
        }
        let (eos, strings) = (eos.to_vec(), strings.to_vec());
        Ok(Self { eos, left: max_output, strings, pieces, tail: Vec::new() })
    }

    /// Takes the next output token; answers why the output ends with it, if it does. Where several reasons hold, it is
    /// the first of eos, stop, length.
    pub fn push(&mut self, token: u32) -> Option<Finish> {
        self.left = self.left.saturating_sub(1);
        if self.eos.contains(&token) {
            return Some(Finish::Eos);
        }
        if self.stops(token) {
            return Some(Finish::Stop);
        }
        (self.left == 0).then_some(Finish::Length)
    }

    fn stops(&mut self, token: u32) -> bool {
        let Some(longest) = self.strings.iter().map(String::len).max() else {
            return false;
        };
        self.tail.extend(self.pieces.piece(token));
        if self.strings.iter().any(|s| self.tail.windows(s.len()).any(|w| w == s.as_bytes())) {
            return true;
        }
        self.tail.drain(..self.tail.len().saturating_sub(longest - 1));
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Token 4 is the first byte of a two-byte character alone.
    fn pieces() -> Vec<&'static [u8]> {
        vec![b"ab", b"c", b"abc", b"", &"\u{e9}".as_bytes()[..1]]
    }

    fn ends(strings: &[&str], tokens: &[u32]) -> Option<(usize, Finish)> {
        let strings: Vec<String> = strings.iter().map(|s| s.to_string()).collect();
        let pieces = pieces();
        let mut ending = Ending::new(&[7], 6, &strings, &pieces).unwrap();
        tokens.iter().enumerate().find_map(|(i, t)| Some((i, ending.push(*t)?)))
    }

    #[test]
    fn a_stop_string_may_span_tokens() {
        assert_eq!(ends(&["cab"], &[0, 0, 1, 0]), Some((3, Finish::Stop)));
        assert_eq!(ends(&["bcab", "x"], &[0, 1, 3, 2, 2]), Some((3, Finish::Stop)));
        assert_eq!(ends(&["b"], &[1, 2]), Some((1, Finish::Stop)));
        assert_eq!(ends(&["\u{e9}"], &[4, 4, 0]), None);
        assert_eq!(ends(&[], &[0, 1, 2]), None);
    }

    #[test]
    fn eos_goes_before_stop_before_length() {
        assert_eq!(ends(&["ab"], &[1, 1, 1, 1, 1, 0]), Some((5, Finish::Stop)));
        assert_eq!(ends(&[], &[1, 1, 1, 1, 1, 1]), Some((5, Finish::Length)));
        assert_eq!(ends(&[], &[1, 1, 1, 1, 1, 7]), Some((5, Finish::Eos)));
    }

    #[test]
    fn empty_requests_are_refused() {
        let empty = [String::new()];
        assert!(Ending::new(&[], 1, &empty, &pieces()).is_err());
        let error = Ending::new(&[], 0, &[], &pieces()).err().unwrap().to_string();
        assert_eq!(error, "max_output is 0, must be at least 1");
    }
}
