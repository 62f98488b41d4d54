//! Sequences and signatures.

use deepnode_core::{errors, Ctx, Error, KvRead, Messages, Result};
use deepnode_cosmos::auth;
use deepnode_proto::cosmos::tx::v1beta1::{ModeInfo, SignerInfo};
use deepnode_tx::{sign_bytes, PublicKey, SignerData, Tx};
use rayon::prelude::*;

use super::cache::Entry;
use super::{basic, refused, Checked, Mode, SignatureCache};

/// Each signer's sequence is the account's next one (0 in an unordered transaction), and its signature is good.
pub fn check(cx: &Ctx<'_>, checked: &Checked<'_>, cache: &SignatureCache) -> Result<()> {
    let Checked { tx, mode, .. } = checked;
    let infos = &tx.auth_info.signer_infos;
    for ((signer, info), signature) in checked.signers.iter().zip(infos).zip(&tx.signatures) {
        let account = auth::existing_account(cx, signer)?;
        let (expected, got) = (account.sequence, info.sequence);
        if tx.body.unordered && got != 0 {
            return Err(errors::invalid_request("sequence is not allowed for unordered transactions"));
        }
        if !tx.body.unordered && got != expected {
            let text = format!("account sequence mismatch, expected {expected}, got {got}");
            return Err(errors::wrong_sequence(text));
        }
        if matches!(mode, Mode::Simulate | Mode::Recheck) {
            continue;
        }
        let key = account.key.ok_or_else(|| errors::invalid_pub_key("pubkey on account is not set"))?;
        let key = key.public_key()?;
        let data = SignerData {
            chain_id: cx.block().chain_id.clone(),
            account_number: account.number,
            sequence: got,
        };
        let bytes = sign_bytes(tx, mode_of(info)?, &data).map_err(refused)?;
        verify(cache, &key, &bytes, signature).map_err(|_| failed(&data))?;
    }
    Ok(())
}

fn mode_of(info: &SignerInfo) -> Result<&ModeInfo> {
    info.mode_info.as_ref().ok_or_else(|| errors::unauthorized("signer info has no sign mode"))
}

/// In the words by which wallets tell their users what to look at.
fn failed(data: &SignerData) -> Error {
    let SignerData { chain_id, account_number, sequence } = data;
    errors::unauthorized(format!(
        "signature verification failed; please verify account number ({account_number}), sequence ({sequence}) \
         and chain-id ({chain_id})"
    ))
}

fn verify(
    cache: &SignatureCache,
    key: &PublicKey,
    sign_bytes: &[u8],
    signature: &[u8],
) -> std::result::Result<(), deepnode_tx::TxError> {
    let entry = Entry::new(sign_bytes, key, signature);
    if !cache.has(&entry) {
        key.verify(sign_bytes, signature)?;
        cache.insert(entry);
    }
    Ok(())
}

/// Verifies the signatures of many transactions on all cores, before [`super::run`] takes them one after another.
///
/// Only fills the cache: what has too many signatures, no key or a bad signature is left for `run` to refuse.
pub fn verify_ahead<'a>(
    state: &dyn KvRead,
    chain_id: &str,
    messages: &Messages,
    txs: impl IntoIterator<Item = &'a Tx>,
    cache: &SignatureCache,
) -> Result<()> {
    let limit = auth::params(state)?.tx_sig_limit;
    let mut waiting = Vec::new();
    for tx in txs {
        let Ok(signers) = basic::check(messages, tx) else { continue };
        if !u64::try_from(signers.len()).is_ok_and(|signers| signers <= limit) {
            continue;
        }
        let infos = &tx.auth_info.signer_infos;
        for ((signer, info), signature) in signers.iter().zip(infos).zip(&tx.signatures) {
            let Some(account) = auth::account(state, signer)? else { continue };
            let key = match (&account.key, &info.public_key) {
                (Some(key), _) => key.public_key()?,
                (None, Some(any)) => match PublicKey::from_any(any) {
                    Ok(key) => key,
                    Err(_) => continue,
                },
                (None, None) => continue,
            };
            let data = SignerData {
                chain_id: chain_id.to_owned(),
                account_number: account.number,
                sequence: info.sequence,
            };
            let bytes = info.mode_info.as_ref().and_then(|mode| sign_bytes(tx, mode, &data).ok());
            if let Some(bytes) = bytes {
                waiting.push((key, bytes, signature));
            }
        }
    }
    waiting.into_par_iter().for_each(|(key, bytes, signature)| {
        // A bad one is not remembered, and meets its refusal in `run`.
        let _ = verify(cache, &key, &bytes, signature);
    });
    Ok(())
}
