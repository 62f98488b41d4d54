//! Events, named as in the Cosmos SDK: explorers rebuild balances from them.

use deepnode_core::{Address, Coins, Event};

pub fn spent(spender: &Address, coins: &Coins) -> Event {
    Event::new("coin_spent").with("spender", spender).with("amount", coins)
}

pub fn received(receiver: &Address, coins: &Coins) -> Event {
    Event::new("coin_received").with("receiver", receiver).with("amount", coins)
}

pub fn transfer(sender: &Address, recipient: &Address, coins: &Coins) -> Event {
    Event::new("transfer").with("recipient", recipient).with("sender", sender).with("amount", coins)
}

pub fn sender(sender: &Address) -> Event {
    Event::new("message").with("sender", sender)
}

pub fn minted(minter: &Address, coins: &Coins) -> Event {
    Event::new("coinbase").with("minter", minter).with("amount", coins)
}

pub fn burned(burner: &Address, coins: &Coins) -> Event {
    Event::new("burn").with("burner", burner).with("amount", coins)
}
