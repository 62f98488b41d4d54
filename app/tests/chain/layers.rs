//! A module may call those before it in genesis order, and no other.

use std::collections::BTreeMap;

use deepnode_app::Modules;

use crate::source::{after, modules};

/// The paths that a use tree or a path begins with: `a::b`, or `a` alone; `{a, b::{c, d}}` gives a, b::c, b::d.
fn paths(text: &str, out: &mut Vec<Vec<String>>) {
    fn tree<'a>(text: &'a str, before: &[String], out: &mut Vec<Vec<String>>) -> &'a str {
        let mut rest = text.trim_start();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside.trim_start();
            while !rest.starts_with('}') && !rest.is_empty() {
                rest = tree(rest, before, out).trim_start();
                rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
            }
            return rest.strip_prefix('}').unwrap_or(rest);
        }
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '*')).unwrap_or(rest.len());
        let mut path = before.to_vec();
        if rest[..end] != *"self" {
            path.push(rest[..end].to_owned());
        }
        // The name that it is given here does not matter.
        if let Some(renamed) = rest[end..].trim_start().strip_prefix("as ") {
            out.push(path);
            return renamed.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
        }
        match rest[end..].strip_prefix("::") {
            Some(more) => tree(more, &path, out),
            None => {
                out.push(path);
                if end == 0 {
                    // Nothing of a path: whoever walks on must not stand still.
                    return rest.get(1..).unwrap_or("");
                }
                &rest[end..]
            }
        }
    }
    tree(text, &[], out);
}

#[test]
fn trees_of_uses_are_read() {
    let read = |text: &str| {
        let mut out = Vec::new();
        paths(text, &mut out);
        out.into_iter().map(|path| path.join("::")).collect::<Vec<_>>()
    };
    assert_eq!(read("audits::math::Decision;"), ["audits::math::Decision"]);
    assert_eq!(
        read("{beacon, models::{self, Class as C}, tasks::{pay::{a, b}, *}};"),
        ["beacon", "models", "models::Class", "tasks::pay::a", "tasks::pay::b", "tasks::*"]
    );
    assert_eq!(read("workers::get(cx)"), ["workers::get"]);
}

/// The order is that of genesis. `X::math` is free to all: it holds formulas and reads no state.
#[test]
fn modules_call_only_those_before_them() {
    let order: BTreeMap<String, usize> =
        Modules::new().all().enumerate().map(|(at, module)| (module.name().to_owned(), at)).collect();
    let (mut wrong, mut calls) = (Vec::new(), 0);
    for source in modules() {
        let own = order.get(&source.module).unwrap_or_else(|| panic!("{} is in no order", source.module));
        let mut found = Vec::new();
        for root in ["crate::", "deepnode_cosmos::", "deepnode_modules::"] {
            after(&source.text, root).for_each(|rest| paths(rest, &mut found));
        }
        for path in found {
            let Some(at) = path.first().and_then(|name| order.get(name)) else { continue };
            calls += usize::from(at != own);
            if at > own && path.get(1).is_none_or(|part| part != "math") {
                wrong.push(format!("{}: {}", source.path.display(), path.join("::")));
            }
        }
        let pure = source.path.iter().any(|part| part == "math" || part == "math.rs");
        if pure && ["Ctx<", "KvRead", "KvWrite"].iter().any(|state| source.text.contains(state)) {
            wrong.push(format!("{}: mathematics that reads state", source.path.display()));
        }
    }
    assert!(wrong.is_empty(), "calls of later modules:\n{}", wrong.join("\n"));
    assert!(calls > 50, "{calls} calls between modules were found");
}
