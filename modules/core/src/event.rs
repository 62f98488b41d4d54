//! Events: what explorers and wallets are told. Not part of the state or of its hash.

/// An event as ABCI reports it; every attribute is indexed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: &'static str,
    pub attributes: Vec<(&'static str, String)>,
}

impl Event {
    /// An event without attributes.
    pub fn new(kind: &'static str) -> Self {
        Event { kind, attributes: Vec::new() }
    }

    /// The same event with one attribute more.
    pub fn with(mut self, key: &'static str, value: impl ToString) -> Self {
        self.attributes.push((key, value.to_string()));
        self
    }
}
