//! Accounts: numbers, sequences, public keys, and the nonces of unordered transactions.
