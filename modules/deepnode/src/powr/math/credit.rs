//! Credit: what a final receipt adds to a score, in micro-CU.

use crate::params::{ScoreParams, MICRO};
use deepnode_core::num::{amount, Dec, NumError};

/// What a receipt's credit depends on besides its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Paid and reference price, udn for 10^6 CU.
    pub price: Dec,
    pub ref_price: Dec,
    /// Whether governance lists the model. If not, nothing is credited: zero weights would make CU free.
    pub scored: bool,
    /// How the worker came to the work.
    pub origin: Origin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Drawn among so many workers, backed by so many validators.
    Drawn { workers: u64, validators: u64 },
    /// Named by the user, who may be its owner.
    Chosen,
    /// A task of the chain itself: full credit.
    Canary,
}

/// c = 10^6 CU * min(1, price / ref_price); half of it if the user chose the worker or few were in the draw;
/// whole for a canary; 0 if the model is not scored.
pub fn credit(cu: u128, terms: &Terms, params: &ScoreParams) -> Result<u128, NumError> {
    if !terms.scored {
        return Ok(0);
    }
    let full = amount::mul(cu, MICRO)?;
    if terms.origin == Origin::Canary {
        return Ok(full);
    }
    let (price, reference) = (terms.price.atomics(), terms.ref_price.atomics());
    let paid = amount::mul_div(full, price.min(reference), reference)?;
    Ok(if routed(terms.origin, params) { paid } else { paid / 2 })
}

fn routed(origin: Origin, params: &ScoreParams) -> bool {
    match origin {
        Origin::Drawn { workers, validators } => {
            workers >= params.full_draw_workers && validators >= params.full_draw_validators
        }
        Origin::Chosen => false,
        Origin::Canary => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_receipt_is_worth() {
        let params = ScoreParams::default();
        let fair = Terms {
            price: Dec::percent(1400),
            ref_price: Dec::percent(1400),
            scored: true,
            origin: Origin::Drawn { workers: 5, validators: 3 },
        };
        let worth = |terms: Terms| credit(1001, &terms, &params).unwrap();
        assert_eq!(worth(fair), 1_001_000_000);
        assert_eq!(worth(Terms { price: Dec::percent(9900), ..fair }), 1_001_000_000);
        assert_eq!(worth(Terms { price: Dec::percent(700), ..fair }), 500_500_000);
        assert_eq!(worth(Terms { origin: Origin::Chosen, ..fair }), 500_500_000);
        for (workers, validators) in [(4, 3), (9, 2)] {
            assert_eq!(worth(Terms { origin: Origin::Drawn { workers, validators }, ..fair }), 500_500_000);
        }
        assert_eq!(worth(Terms { origin: Origin::Canary, price: Dec::ZERO, ..fair }), 1_001_000_000);
        assert_eq!(worth(Terms { scored: false, ..fair }), 0);
        assert_eq!(worth(Terms { scored: false, origin: Origin::Canary, ..fair }), 0);
        assert!(credit(u128::MAX, &fair, &params).is_err());
        assert!(credit(1, &Terms { ref_price: Dec::ZERO, ..fair }, &params).is_err());
    }
}
