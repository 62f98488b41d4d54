//! What the tour prints.

use crate::network::Network;

/// A heading.
pub fn step(name: &str) {
    println!("\n\x1b[1m== {name}\x1b[0m");
}

/// One line: a name and its value.
pub fn line(name: &str, value: impl std::fmt::Display) {
    println!("   {name:<24} {value}");
}

/// udn with its DN beside it.
pub fn udn(amount: &str) -> String {
    match amount.parse::<u128>() {
        Ok(udn) => format!("{udn} udn ({}.{:06} DN)", udn / 1_000_000, udn % 1_000_000),
        Err(_) => format!("{amount} udn"),
    }
}

/// A number of 18 decimals, which the chain writes without its point, with six of them.
pub fn decimal(atomics: &str) -> String {
    let padded = format!("{atomics:0>19}");
    let (whole, part) = padded.split_at(padded.len() - 18);
    format!("{whole}.{}", &part[..6])
}

/// Parts of a million as percent with two digits.
pub fn percent(part: u64, whole: u64) -> String {
    let hundredths = u128::from(part) * 10_000 / u128::from(whole.max(1));
    format!("{}.{:02}%", hundredths / 100, hundredths % 100)
}

/// How to go on by hand.
pub fn usage(network: &Network) {
    let dir = network.paths.dir.display();
    let bin = network.paths.bin.display();
    step("running until Ctrl-C");
    println!("   OpenAI's API http://{}/v1, any key", network.gateway.listen);
    println!("   gRPC 127.0.0.1:9090, REST http://127.0.0.1:1317, CometBFT http://127.0.0.1:26657");
    println!("   {bin}/deepnoded ask SmolLM2-135M-Instruct \"Why is the sky blue?\" --from user0 \\");
    println!("       --keyring-backend test --keyring-dir {dir}");
    println!("   {bin}/deepnoded query powr terms");
    println!("   logs in {dir}/logs");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_numbers() {
        assert_eq!(decimal("331794679214671650"), "0.331794");
        assert_eq!(decimal("1000000000000000000"), "1.000000");
        assert_eq!(decimal("0"), "0.000000");
        assert_eq!(udn("1500000"), "1500000 udn (1.500000 DN)");
        assert_eq!(percent(1, 3), "33.33%");
    }
}
