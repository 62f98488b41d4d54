//! How texts are cut into words, as the pre-tokenizers of the models' own tokenizer.json files cut them: made with the
//! `tokenizers` package 0.22.2 for Python and its regular expressions (Oniguruma's).

use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _};

use super::PreTokenizer::{self, *};
use super::{byte_alphabet, PieceKind, Tokenizer, TokenizerFiles, TokenizerSpec};

fn cut(pre: PreTokenizer, text: &str) -> Vec<String> {
    let mut words = PreTokenizedString::from(text);
    super::words(pre).unwrap().pre_tokenize(&mut words).unwrap();
    let splits = words.get_splits(OffsetReferential::Original, OffsetType::Byte);
    splits.into_iter().map(|(_, (from, to), _)| text[from..to].to_string()).collect()
}

#[test]
fn words_are_those_of_the_published_rules() {
    type Words<'a> = &'a [&'a str];
    // The text, and its words by GPT-2, SmolLM2, Llama 3 and Qwen 2.
    let table: [(&str, [Words<'_>; 4]); 11] = [
        (
            "Pay 1234567 or 12.5",
            [
                &["Pay", " 1234567", " or", " 12", ".", "5"],
                &["Pay", " ", "1", "2", "3", "4", "5", "6", "7", " or", " ", "1", "2", ".", "5"],
                &["Pay", " ", "123", "456", "7", " or", " ", "12", ".", "5"],
                &["Pay", " ", "1", "2", "3", "4", "5", "6", "7", " or", " ", "1", "2", ".", "5"],
            ],
        ),
        (
            "It's WE'LL don'T he'd",
            [
                &["It", "'s", " WE", "'", "LL", " don", "'", "T", " he", "'d"],
                &["It", "'s", " WE", "'", "LL", " don", "'", "T", " he", "'d"],
                &["It", "'s", " WE", "'LL", " don", "'T", " he", "'d"],
                &["It", "'s", " WE", "'LL", " don", "'T", " he", "'d"],
            ],
        ),
        ("a  b   c ", [&["a", " ", " b", "  ", " c", " "]; 4]),
        (
            "x\n\n  y\r\n\tz \n",
            [
                &["x", "\n\n ", " y", "\r\n", "\t", "z", " \n"],
                &["x", "\n\n ", " y", "\r\n", "\t", "z", " \n"],
                &["x", "\n\n", " ", " y", "\r\n", "\tz", " \n"],
                &["x", "\n\n", " ", " y", "\r\n", "\tz", " \n"],
            ],
        ),
        (
            "  \n\n  end",
            [&["  \n\n ", " end"], &["  \n\n ", " end"], &["  \n\n", " ", " end"], &["  \n\n", " ", " end"]],
        ),
        ("naïve Ünder größe", [&["naïve", " Ünder", " größe"]; 4]),
        ("世界こんにちは мир, שלום", [&["世界こんにちは", " мир", ",", " שלום"]; 4]),
        ("go🙂🙂 !👩‍👩‍👧?", [&["go", "🙂🙂", " !👩‍👩‍👧?"]; 4]),
        (
            "foo_bar(x)==[1,2];\n\n",
            [
                &["foo", "_", "bar", "(", "x", ")==[", "1", ",", "2", "];", "\n\n"],
                &["foo", "_", "bar", "(", "x", ")==[", "1", ",", "2", "];", "\n\n"],
                &["foo", "_bar", "(x", ")==[", "1", ",", "2", "];\n\n"],
                &["foo", "_bar", "(x", ")==[", "1", ",", "2", "];\n\n"],
            ],
        ),
        (
            "٣٤٥٦ Ⅳ½ x²",
            [
                &["٣٤٥٦", " Ⅳ½", " x", "²"],
                &["٣", "٤", "٥", "٦", " ", "Ⅳ", "½", " x", "²"],
                &["٣٤٥", "٦", " ", "Ⅳ½", " x", "²"],
                &["٣", "٤", "٥", "٦", " ", "Ⅳ", "½", " x", "²"],
            ],
        ),
        // A combining accent, a no-break space, an ideographic one.
        (
            "e\u{301}\u{a0}b\u{3000}c",
            [
                &["e", "\u{301}", "\u{a0}", "b", "\u{3000}", "c"],
                &["e", "\u{301}", "\u{a0}", "b", "\u{3000}", "c"],
                &["e", "\u{301}", "\u{a0}b", "\u{3000}c"],
                &["e", "\u{301}", "\u{a0}b", "\u{3000}c"],
            ],
        ),
    ];
    for (text, expected) in table {
        for (pre, expected) in [Gpt2, SmolLm, Llama3, Qwen2].into_iter().zip(expected) {
            assert_eq!(cut(pre, text), expected, "{pre:?}: {text:?}");
        }
    }
}

/// A token that merges never make is a word's only where they are ignored, and where the file says so.
#[test]
fn merges_are_ignored_for_whole_words() {
    let spec = |pre| {
        let mut tokens = vec![String::new(); 256];
        for (letter, byte) in byte_alphabet() {
            tokens[usize::from(byte)] = letter.to_string();
        }
        tokens.extend(["at", "cat"].map(str::to_string));
        let kinds = vec![PieceKind::Normal; tokens.len()];
        let merges = vec![(97, 116)];
        TokenizerSpec { pre, tokens, kinds, merges, bos: None, eos: None, add_bos: false, template: None }
    };
    for (pre, ids) in [(Llama3, &[257][..]), (Gpt2, &[99, 256]), (Qwen2, &[99, 256])] {
        assert_eq!(Tokenizer::new(spec(pre)).unwrap().encode("cat").unwrap(), ids, "{pre:?}");
        // Inside a longer word the merges decide.
        assert_eq!(Tokenizer::new(spec(pre)).unwrap().encode("cats").unwrap(), [99, 256, 115], "{pre:?}");

        let mut written = spec(pre).to_hf().unwrap();
        assert_eq!(written.tokenizer["model"]["ignore_merges"], pre == Llama3);
        written.tokenizer["model"]["ignore_merges"] = (pre != Llama3).into();
        let error = read(&written.tokenizer, 258).unwrap_err();
        assert!(error.contains(&format!("ignore_merges {}", pre != Llama3)), "{error}");
    }
}

/// Older files write a merge as two tokens with a space between, newer ones as a pair.
#[test]
fn merges_are_pairs_or_joined() {
    let spec = crate::model::synthetic::tokenizer(&crate::model::synthetic::small());
    let mut document = spec.to_hf().unwrap().tokenizer;
    let pairs = document["model"]["merges"].clone();
    assert_eq!(pairs[2], serde_json::json!(["Ġ", "the"]));
    document["model"]["merges"] = serde_json::json!(["t h", "th e", "Ġ the"]);
    let joined = read(&document, 288).unwrap();
    document["model"]["merges"] = pairs;
    assert_eq!(joined, read(&document, 288).unwrap());
    assert_eq!(joined.merges, spec.merges);
}

fn read(tokenizer: &serde_json::Value, vocab: u32) -> Result<TokenizerSpec, String> {
    let tokenizer = tokenizer.to_string();
    let files = TokenizerFiles { tokenizer: tokenizer.as_bytes(), config: None, template: None };
    TokenizerSpec::from_hf(&files, vocab, None, None).map_err(|e| e.to_string())
}
