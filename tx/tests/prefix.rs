//! The prefix of addresses is chosen once in a process; so this is a program of its own, with one test.

use deepnode_tx::address::{prefix, set_prefix, PrefixError};
use deepnode_tx::Address;

#[test]
fn one_process_has_one_prefix() {
    for bad in ["", "Dn", "d1", "dn-", "dné", "abcdefghijklmnopq"] {
        assert_eq!(set_prefix(bad), Err(PrefixError::Letters(bad.into())));
    }
    set_prefix("cosmos").unwrap();
    set_prefix("cosmos").unwrap();
    let address = Address([0; 20]);
    assert_eq!(address.to_string(), "cosmos1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqnrql8a");
    assert!(address.to_operator().starts_with("cosmosvaloper1"));
    assert_eq!(Address::parse_consensus(&address.to_consensus()), Ok(address));
    let error = Address::parse(&address.to_operator()).unwrap_err();
    assert!(error.to_string().contains("\"cosmosvaloper\", expected \"cosmos\""), "{error}");

    // Once addresses are written one way, no part of the process may begin to write them another way.
    let error = set_prefix("dn").unwrap_err();
    assert_eq!(error, PrefixError::Set { set: "cosmos", wanted: "dn".into() });
    assert_eq!(prefix(), "cosmos");
    assert_eq!(Address::parse_any_prefix("dn1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqjq52a0"), Some(address));
    assert_eq!(Address::parse_any_prefix("dn1qqqq"), None);
}
