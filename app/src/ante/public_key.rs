//! Public keys: the first transaction of an account brings its key.

use base64::engine::general_purpose::STANDARD as BASE64;
use base64::Engine;
use deepnode_core::{errors, Ctx, Event, Result};
use deepnode_cosmos::auth;
use deepnode_tx::PublicKey;

use super::{refused, Checked, Mode};

/// Costs in Simulate, which keeps nothing, what the key will cost that the client has not filled in yet.
const STAND_IN: auth::Key = auth::Key::Secp256k1([0; 33]);

/// Stores the keys that are not known yet, and tells explorers who signed what.
pub fn store(cx: &mut Ctx<'_>, checked: &Checked<'_>) -> Result<()> {
    let infos = &checked.tx.auth_info.signer_infos;
    for (i, (signer, info)) in checked.signers.iter().zip(infos).enumerate() {
        let account = auth::existing_account(cx, signer)?;
        let any = match &info.public_key {
            Some(_) if checked.mode == Mode::Recheck && account.key.is_some() => continue,
            Some(any) => any,
            None => {
                if checked.mode == Mode::Simulate && account.key.is_none() {
                    auth::set_key(cx, signer, STAND_IN)?;
                }
                continue;
            }
        };
        let key = PublicKey::from_any(any).map_err(refused)?;
        if key.address() != *signer {
            let text = format!("pubKey does not match signer address {signer} with signer index: {i}");
            return Err(errors::invalid_pub_key(text));
        }
        if account.key.is_none() {
            auth::set_key(cx, signer, auth::Key::from(&key))?;
        }
    }
    for ((signer, info), signature) in checked.signers.iter().zip(infos).zip(&checked.tx.signatures) {
        cx.emit(Event::new("tx").with("acc_seq", format!("{signer}/{}", info.sequence)));
        cx.emit(Event::new("tx").with("signature", BASE64.encode(signature)));
    }
    Ok(())
}
