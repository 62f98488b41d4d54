//! The refusals of the `sdk` codespace, with the codes that Cosmos clients know. Codes are consensus.

use crate::{Error, TxError};

/// A refusal in a module's own codespace. Codes start at 2; 1 is reserved for internal errors.
pub fn tx(codespace: &'static str, code: u32, log: impl Into<String>) -> Error {
    Error::Tx(TxError { codespace, code, log: brief(log.into()) })
}

/// Bytes of a refusal's text.
const MAX_TEXT: usize = 1_000;
/// How much of them its end may take, where clients look for the kind of the error.
const TAIL: usize = 300;

/// A text that reaches logs and clients, with its middle left out if it is long: refusals quote what they refuse, and
/// that may be a megabyte.
pub fn brief(text: String) -> String {
    if text.len() <= MAX_TEXT {
        return text;
    }
    let cut = |mut at: usize| {
        while !text.is_char_boundary(at) {
            at = at.saturating_add(1);
        }
        at
    };
    let (head, tail) = (cut(MAX_TEXT.saturating_sub(TAIL)), cut(text.len().saturating_sub(TAIL)));
    let left_out = tail.saturating_sub(head);
    format!("{} ... ({left_out} bytes left out) ... {}", &text[..head], &text[tail..])
}

macro_rules! sdk {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {$(
        $(#[$doc])*
        pub fn $name(log: impl std::fmt::Display) -> Error {
            tx("sdk", $code, format!("{log}: {}", $text))
        }
    )*};
}

sdk! {
    /// The bytes are no transaction.
    tx_decode = 2, "tx parse error";
    /// The signer may not do this.
    unauthorized = 4, "unauthorized";
    /// Not enough of a coin.
    insufficient_funds = 5, "insufficient funds";
    /// No handler for the message.
    unknown_request = 6, "unknown request";
    /// Not an address of this chain.
    invalid_address = 7, "invalid address";
    /// Not a public key, or not that of the signer.
    invalid_pub_key = 8, "invalid pubkey";
    /// The account does not exist.
    unknown_address = 9, "unknown address";
    /// A malformed coin or denom.
    invalid_coins = 10, "invalid coins";
    /// The memo is too long.
    memo_too_large = 12, "memo too large";
    /// The fee is below what the node or the chain asks.
    insufficient_fee = 13, "insufficient fee";
    /// More signatures than allowed.
    too_many_signatures = 14, "maximum number of signatures exceeded";
    /// A message field is out of its bounds.
    invalid_request = 18, "invalid request";
    /// The transaction is larger than allowed.
    tx_too_large = 21, "tx too large";
    /// Nothing under that key.
    key_not_found = 22, "key not found";
    /// The height of the transaction's timeout has passed.
    tx_timeout_height = 30, "tx timeout height";
    /// An extension option that must be understood and is not.
    unknown_extension_options = 31, "unknown extension options";
    /// The sequence is not the account's next one.
    wrong_sequence = 32, "incorrect account sequence";
    /// Known, and not supported.
    not_supported = 37, "feature not supported";
    /// The thing named does not exist.
    not_found = 38, "not found";
    /// gas_limit is 0 or above the block's.
    invalid_gas_limit = 41, "invalid gas limit";
    /// The time of the transaction's timeout has passed, or its nonce is used up.
    tx_timeout = 42, "tx timeout";
}

/// Code 11, in the words that clients match.
pub fn out_of_gas(location: &str, wanted: u64, used: u64) -> Error {
    tx(
        "sdk",
        11,
        format!("out of gas in location: {location}; gasWanted: {wanted}, gasUsed: {used}: out of gas"),
    )
}

/// Arithmetic that left its range: a refusal, since only amounts that a message chose can do that.
pub fn overflow(what: &str) -> Error {
    invalid_request(format!("{what}: number out of range"))
}

/// Numbers that leave their range refuse the message; a block hook that meets one turns it into a fault itself.
impl From<crate::NumError> for Error {
    fn from(e: crate::NumError) -> Self {
        invalid_request(e)
    }
}

/// What the transaction's own crate refuses, with its code.
pub fn refused(e: deepnode_tx::TxError) -> Error {
    tx(deepnode_tx::error::CODESPACE, e.code(), e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_keep_their_ends() {
        assert_eq!(brief("short".into()), "short");
        let text = brief(format!("amount \"{}\": invalid request", "é€".repeat(100_000)));
        assert!(text.starts_with("amount \"é€") && text.ends_with("é€\": invalid request"), "{text}");
        assert!(text.len() < 1_100 && text.contains("bytes left out"), "{}", text.len());
    }
}
