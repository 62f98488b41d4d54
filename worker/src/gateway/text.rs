//! From tokens to the text that a user sees, up to a stop string.

use crate::model::{TextStream, Tokenizer};

/// The text of one answer as its tokens come. Text that a stop string may begin in waits until that is decided.
#[derive(Debug, Default)]
pub struct Text {
    /// Bytes that wait, and whether each is shown: those of special tokens are not, but a stop string may match them.
    waiting: Vec<(u8, bool)>,
    stopped: bool,
    /// Bytes of all tokens so far.
    pushed: usize,
    /// Special tokens that are shown all the same, since they mean something to who reads on.
    marks: &'static [&'static str],
    characters: TextStream,
}

impl Text {
    /// A text in which these special tokens are shown.
    pub fn showing(marks: &'static [&'static str]) -> Self {
        Self { marks, ..Self::default() }
    }

    /// The text that `token` makes certain.
    pub fn push(&mut self, tokenizer: &Tokenizer, stops: &[String], token: u32) -> String {
        let piece = tokenizer.piece(token).unwrap_or_default();
        self.push_piece(piece, self.shows(tokenizer, token), stops)
    }

    /// Whether a token's text is shown.
    pub fn shows(&self, tokenizer: &Tokenizer, token: u32) -> bool {
        let piece = tokenizer.piece(token).unwrap_or_default();
        !tokenizer.is_special(token) || self.marks.iter().any(|mark| mark.as_bytes() == piece)
    }

    /// Bytes of all tokens so far, those included that are not shown.
    pub fn bytes(&self) -> usize {
        self.pushed
    }

    /// Bytes that no stop string can begin in any more, those included that are not shown; with `end` because nothing
    /// follows.
    pub fn certain(&self, end: bool) -> usize {
        if end && !self.stopped {
            self.pushed
        } else {
            self.pushed - self.waiting.len()
        }
    }

    fn push_piece(&mut self, piece: &[u8], shown: bool, stops: &[String]) -> String {
        if self.stopped {
            return String::new();
        }
        self.pushed += piece.len();
        self.waiting.extend(piece.iter().map(|byte| (*byte, shown)));
        // Where a stop string is, or may still become whole.
        let found = stops.iter().filter_map(|stop| self.find(stop.as_bytes())).min();
        self.stopped = found.is_some();
        let certain = found.unwrap_or_else(|| {
            (0..self.waiting.len())
                .find(|at| stops.iter().any(|stop| self.begins(*at, stop.as_bytes())))
                .unwrap_or(self.waiting.len())
        });
        let bytes: Vec<u8> =
            self.waiting.drain(..certain).filter(|(_, shown)| *shown).map(|(byte, _)| byte).collect();
        self.characters.push_bytes(&bytes)
    }

    /// Where the waiting bytes hold all of `stop`.
    fn find(&self, stop: &[u8]) -> Option<usize> {
        self.waiting.windows(stop.len()).position(|bytes| bytes.iter().map(|(b, _)| b).eq(stop))
    }

    /// Whether the waiting bytes from `at` on are the beginning of `stop`.
    fn begins(&self, at: usize, stop: &[u8]) -> bool {
        let tail = &self.waiting[at..];
        tail.len() < stop.len() && tail.iter().map(|(b, _)| b).eq(&stop[..tail.len()])
    }

    /// The rest, when no more tokens come.
    pub fn finish(mut self) -> String {
        let rest = if self.stopped { Vec::new() } else { self.waiting };
        let bytes: Vec<u8> = rest.into_iter().filter(|(_, shown)| *shown).map(|(byte, _)| byte).collect();
        let text = self.characters.push_bytes(&bytes);
        text + &self.characters.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of a text as they come, the last one at the end.
    fn parts(pieces: &[(&str, bool)], stops: &[&str]) -> Vec<String> {
        let stops: Vec<String> = stops.iter().map(|s| s.to_string()).collect();
        let mut text = Text::default();
        let mut parts: Vec<String> =
            pieces.iter().map(|(piece, shown)| text.push_piece(piece.as_bytes(), *shown, &stops)).collect();
        parts.push(text.finish());
        parts
    }

    #[test]
    fn text_ends_before_the_stop_string() {
        let shown = |pieces: &[&'static str]| pieces.iter().map(|p| (*p, true)).collect::<Vec<_>>();
        assert_eq!(parts(&shown(&["ab", "cd"]), &[]), ["ab", "cd", ""]);
        assert_eq!(parts(&shown(&["ab", "cd", "e"]), &["bcd"]), ["a", "", "", ""]);
        assert_eq!(parts(&shown(&["ab", "cx", "b"]), &["bcd"]), ["a", "bcx", "", "b"]);
        assert_eq!(parts(&shown(&["aab"]), &["aab", "ab"]), ["", ""]);
        assert_eq!(parts(&shown(&["xa", "a", "ab"]), &["aab"]), ["x", "", "a", ""]);
    }

    #[test]
    fn special_tokens_stop_and_do_not_show() {
        let pieces = [("a", true), ("<end>", false), ("b", true)];
        assert_eq!(parts(&pieces, &["<end>"]), ["a", "", "", ""]);
        assert_eq!(parts(&pieces, &["x"]), ["a", "", "b", ""]);
    }
}
