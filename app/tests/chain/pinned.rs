//! What others rely on, read from the sources: where each thing lies in the state, and every error code.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{after, file, modules, Source};

/// Every collection: store, prefix, name, type. A changed line is another state layout.
#[test]
fn collections() {
    let mut lines = BTreeSet::new();
    let mut taken: BTreeMap<(String, String), String> = BTreeMap::new();
    let mut add = |module: &str, prefix: &str, what: String| {
        lines.insert(format!("{module} {prefix} {what}"));
        let before = taken.insert((module.into(), prefix.into()), what);
        assert!(before.is_none(), "{module} {prefix} is {before:?} too");
    };
    for Source { module, text, .. } in modules() {
        for rest in after(&text, "const ") {
            let statement = &rest[..rest.find(';').unwrap()];
            let Some((declared, value)) = statement.split_once('=') else { continue };
            for prefix in after(value, "0x").filter(|_| value.contains("::new(")) {
                add(&module, &format!("0x{}", &prefix[..2]), declared.trim().to_owned());
            }
        }
    }
    for module in deepnode_app::Modules::new().all() {
        add(module.name(), "0xff", "VERSION: Item<u32>".into());
    }
    insta::assert_snapshot!(lines.into_iter().collect::<Vec<_>>().join("\n"));
}

/// The text of the first string literal.
fn literal(text: &str) -> &str {
    let start = text.find('"').map_or(text.len(), |at| at + 1);
    let length = text[start..].find('"').unwrap_or(0);
    &text[start..start + length]
}

/// A leading number, and what follows it.
fn number(text: &str) -> Option<(u32, &str)> {
    let text = text.trim_start();
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// Every (codespace, code) with the words that come with it. Codes are hashed into the chain and known to clients.
#[test]
fn error_codes() {
    let mut sources = modules();
    sources.push(file("sdk", "modules/core/src/errors.rs"));
    sources.push(file("sdk", "tx/src/error.rs"));
    let mut codes: BTreeMap<(String, u32), BTreeSet<String>> = BTreeMap::new();
    for Source { module, path, text } in &sources {
        let mut found = 0;
        let mut add = |code: u32, text: &str| {
            found += 1;
            codes.entry((module.clone(), code)).or_default().insert(text.into());
        };
        // In the lists of macros: name = code, "text";
        for (at, _) in text.match_indices(" = ") {
            if let Some((code, rest)) = number(&text[at + 3..]) {
                if rest.starts_with(", \"") {
                    add(code, literal(rest));
                }
            }
        }
        for call in ["refusal(", "refuse(", "tx("] {
            for rest in after(text, call) {
                let rest = rest.trim_start();
                // The codespace, if the call names it.
                let named = rest
                    .split_once(',')
                    .filter(|(first, _)| first.ends_with("STORE") || first.starts_with('"'));
                let rest = named.map_or(rest, |(_, rest)| rest);
                if let Some((code, rest)) = number(rest).filter(|(_, rest)| rest.starts_with(',')) {
                    add(code, literal(rest));
                }
            }
        }
        // In a match: Self::Variant(_) => code,
        for rest in after(text, "Self::").filter(|_| path.ends_with("tx/src/error.rs")) {
            if let Some((code, _)) = rest.split_once("=>").and_then(|(_, rest)| number(rest)) {
                add(code, &rest[..rest.find(|c: char| !c.is_alphanumeric()).unwrap()]);
            }
        }
        assert!(found > 0 || !path.ends_with("errors.rs"), "no codes found in {}", path.display());
    }
    let lines = codes.iter().map(|((codespace, code), texts)| {
        format!("{codespace} {code}: {}", texts.iter().cloned().collect::<Vec<_>>().join(" | "))
    });
    insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"));
}
