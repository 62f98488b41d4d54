//! Keys outlive the program, stay private, and are the ones that other wallets derive.

use deepnode_client::keyring::{mnemonic, Backend, Keyring, KeyringError, Passphrase};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use zeroize::Zeroizing;

/// CosmJS's faucet account: its words and public key stand in CosmJS's tests.
const FAUCET: &str = "economy stock theory fatal elder harbor betray wasp final emotion task crumble \
                      siren bottom lizard educate guess current outdoor pair theory focus wife stone";
const FAUCET_KEY: &str = "034f04181eeba35391b858633a765c4a0c189697b40d216354d50890d350c70290";

fn text(passphrase: &str) -> Passphrase {
    Passphrase::Text(Zeroizing::new(passphrase.into()))
}

fn open(home: &Path, passphrase: &str) -> Keyring {
    Keyring::open(home, Backend::File, text(passphrase)).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn words_give_the_keys_of_other_wallets() {
    let home = tempfile::tempdir().unwrap();
    let keys = Keyring::open(home.path(), Backend::Test, Passphrase::Prompt).unwrap();
    let info = keys.recover("faucet", FAUCET).unwrap();
    assert_eq!(hex_of(&info.public_key), FAUCET_KEY);
    assert_eq!(
        info.address.to_string().split_once('1').unwrap().1[..32],
        "pkptre7fdkl6gfrzlesjjvhxhlc3r4gm"[..]
    );
    // Case and spacing are the user's.
    let sloppy = format!("  {}\n", FAUCET.to_uppercase().replace(' ', "  "));
    assert_eq!(mnemonic::derive(&sloppy).unwrap().address(), info.address);
    // Twelve words, from the test vectors of BIP-39.
    let twelve = "abandon ".repeat(11) + "about";
    assert!(mnemonic::derive(&twelve).is_ok());
    let error = |phrase: &str| mnemonic::derive(phrase).unwrap_err().to_string();
    assert_eq!(error("abandon about"), "mnemonic: it has 2 words, expected 12 or 24");
    assert!(error(&"abandon ".repeat(12)).contains("checksum"));
    assert_eq!(
        error(&twelve.replace("about", "secretword")),
        "mnemonic: word 12 is not in the English word list"
    );
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn a_locked_key_opens_with_its_passphrase_only() {
    let home = tempfile::tempdir().unwrap();
    let keys = open(home.path(), "correct horse");
    let (info, phrase) = keys.add("alice").unwrap();
    assert_eq!(phrase.split(' ').count(), 24);
    assert_eq!(mnemonic::derive(&phrase).unwrap().address(), info.address);

    let path = keys.dir().join("alice.json");
    assert_eq!((mode(keys.dir()), mode(&path)), (0o700, 0o600));
    let file = fs::read_to_string(&path).unwrap();
    let secret = hex_of(&**mnemonic::derive(&phrase).unwrap().secret());
    assert!(!file.contains(&secret));
    assert_eq!(fs::read_dir(keys.dir()).unwrap().count(), 1, "nothing else is left behind");

    // Another run of the program.
    assert_eq!(open(home.path(), "correct horse").signer("alice").unwrap().address(), info.address);
    let other = open(home.path(), "wrong horse");
    assert!(matches!(other.signer("alice"), Err(KeyringError::WrongPassphrase)));
    assert_eq!(other.list().unwrap(), std::slice::from_ref(&info));

    // A file whose public part is another key's does not open, with the right passphrase too.
    let bob = keys.add("bob").unwrap().0;
    let forged = file
        .replace(&info.address.to_string(), &bob.address.to_string())
        .replace(&hex_of(&info.public_key), &hex_of(&bob.public_key));
    fs::write(&path, forged).unwrap();
    assert!(matches!(keys.signer("alice"), Err(KeyringError::WrongPassphrase)));
    fs::write(&path, file.replace(&info.address.to_string(), &bob.address.to_string())).unwrap();
    assert!(matches!(keys.show("alice"), Err(KeyringError::Malformed(_))));
    fs::write(&path, file.replace("65536", "4294967295")).unwrap();
    assert!(matches!(keys.signer("alice"), Err(KeyringError::Malformed(_))));
}

#[test]
fn keys_are_never_overwritten_and_names_stay_in_the_folder() {
    let home = tempfile::tempdir().unwrap();
    let keys = Keyring::open(home.path(), Backend::Test, Passphrase::Prompt).unwrap();
    let (first, _) = keys.add("k").unwrap();
    assert!(matches!(keys.recover("k", FAUCET), Err(KeyringError::Exists { .. })));
    assert_eq!(keys.list().unwrap(), [first]);
    for name in ["", ".hidden", "../k", "a/b", "a b", &"x".repeat(65)] {
        assert!(matches!(keys.add(name), Err(KeyringError::Name(_))), "{name:?}");
    }
    keys.delete("k").unwrap();
    assert!(matches!(keys.delete("k"), Err(KeyringError::NotFound { .. })));
    assert!(matches!(keys.signer("k"), Err(KeyringError::NotFound { .. })));
    assert!(keys.list().unwrap().is_empty());
}

#[test]
fn an_export_moves_a_key_to_another_keyring() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let test = Keyring::open(here.path(), Backend::Test, Passphrase::Prompt).unwrap();
    let info = test.add("moved").unwrap().0;
    assert!(matches!(test.export("moved", &text("short")), Err(KeyringError::ShortPassphrase)));
    let file = test.export("moved", &text("for the road")).unwrap();
    let keys = open(there.path(), "at the other end");
    assert!(matches!(keys.import("k", &file, &text("another road")), Err(KeyringError::WrongPassphrase)));
    assert_eq!(keys.import("k", &file, &text("for the road")).unwrap().address, info.address);
    assert_eq!(keys.signer("k").unwrap().secret(), test.signer("moved").unwrap().secret());
}

#[test]
fn what_others_can_read_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let secret = home.path().join("passphrase");
    fs::write(&secret, "correct horse\n").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    let keys = Keyring::open(home.path(), Backend::File, Passphrase::File(secret.clone())).unwrap();
    let error = keys.add("k").unwrap_err().to_string();
    assert!(error.contains("open to other users (mode 644): chmod it to 600"), "{error}");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    keys.add("k").unwrap();
    assert!(keys.signer("k").is_ok());

    fs::set_permissions(keys.dir().join("k.json"), fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(keys.signer("k"), Err(KeyringError::Permissions { expected: 0o600, .. })));
    fs::set_permissions(keys.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let again = Keyring::open(home.path(), Backend::File, Passphrase::Prompt);
    assert!(matches!(again, Err(KeyringError::Permissions { expected: 0o700, .. })));
}
