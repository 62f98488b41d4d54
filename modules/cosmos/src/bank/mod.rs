//! Balances and supply.
