//! A chain in this process, driven as CometBFT would drive it.

use deepnode_abci_server::cli::genesis::{add_account, add_validator};
use deepnode_app::{App, Options};
use deepnode_proto::cosmos::auth::v1beta1::{QueryAccountInfoRequest, QueryAccountInfoResponse};
use deepnode_proto::cosmos::bank::v1beta1::{QueryBalanceRequest, QueryBalanceResponse};
use deepnode_proto::tendermint_proto::google::protobuf::Timestamp;
use deepnode_proto::tendermint_proto::v0_38::abci::{
    RequestFinalizeBlock, RequestInitChain, ResponseFinalizeBlock,
};
use deepnode_proto::tendermint_proto::v0_38::types::{
    AbciParams, BlockParams, ConsensusParams, EvidenceParams, ValidatorParams,
};
use deepnode_proto::{Message, Name};
use deepnode_tx::{Address, SignerData, SigningKey, TxBuilder};

pub const CHAIN_ID: &str = "bad-input-1";
/// udn of each user at genesis.
pub const RICH: u128 = 1_000_000_000;

pub struct World {
    pub app: App,
    height: i64,
    _dir: tempfile::TempDir,
}

pub fn key(n: u8) -> SigningKey {
    SigningKey::new(&[n; 32]).unwrap()
}

pub fn user(n: u8) -> Address {
    key(n).address()
}

fn time(height: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds: 1_767_225_600 + height, nanos: 0 })
}

impl World {
    /// Users 1 and 2 are rich, 3 is the validator; two blocks are committed.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let app = App::open(dir.path(), Options { cache_bytes: 16 << 20, ..Options::default() }, &mut |_| {})
            .unwrap();
        let mut genesis = serde_json::json!({ "app_state": deepnode_app::default_genesis() });
        for n in 1..4 {
            add_account(&mut genesis, &user(n), RICH).unwrap();
        }
        add_validator(&mut genesis, &user(3), &[3; 32], "three", RICH / 2).unwrap();
        let day = deepnode_proto::tendermint_proto::google::protobuf::Duration { seconds: 86_400, nanos: 0 };
        let request = RequestInitChain {
            time: time(0),
            chain_id: CHAIN_ID.into(),
            consensus_params: Some(ConsensusParams {
                block: Some(BlockParams { max_bytes: 4 << 20, max_gas: 150_000_000 }),
                evidence: Some(EvidenceParams {
                    max_age_num_blocks: 100_000,
                    max_age_duration: Some(day),
                    max_bytes: 1 << 20,
                }),
                validator: Some(ValidatorParams { pub_key_types: vec!["ed25519".into()] }),
                version: None,
                abci: Some(AbciParams::default()),
            }),
            validators: vec![],
            app_state_bytes: serde_json::to_vec(&genesis["app_state"]).unwrap().into(),
            initial_height: 1,
        };
        app.init_chain(request).unwrap();
        let mut world = World { app, height: 0, _dir: dir };
        world.block(&[]);
        world.block(&[]);
        world
    }

    fn finalize(&self, txs: &[&[u8]]) -> ResponseFinalizeBlock {
        let height = self.height + 1;
        let request = RequestFinalizeBlock {
            txs: txs.iter().map(|tx| tx.to_vec().into()).collect(),
            hash: vec![height as u8; 32].into(),
            height,
            time: time(height),
            proposer_address: Address::from_ed25519(&[3; 32]).0.to_vec().into(),
            ..RequestFinalizeBlock::default()
        };
        let response = self.app.finalize_block(request).unwrap();
        assert_eq!(response.tx_results.len(), txs.len());
        response
    }

    fn block(&mut self, txs: &[&[u8]]) -> ResponseFinalizeBlock {
        let response = self.finalize(txs);
        self.app.commit().unwrap();
        self.height += 1;
        response
    }

    /// Code and log of a transaction in a block of its own.
    pub fn deliver(&mut self, tx: &[u8]) -> (u32, String) {
        let result = self.block(&[tx]).tx_results.remove(0);
        (result.code, result.log)
    }

    /// Asserts that mempool, proposals and blocks refuse `tx`, and that a block with it leaves the state of one without.
    pub fn refused_before_execution(&mut self, what: &str, tx: &[u8], code: u32, text: &str) {
        let check = self.app.check_tx(tx, false).unwrap();
        assert_eq!(check.code, code, "{what}: {}", check.log);
        assert!(!check.log.is_empty() && check.log.contains(text), "{what}: {}", check.log);
        let next = u64::try_from(self.height + 1).unwrap();
        let now = deepnode_core::Time::from_proto(&deepnode_proto::Timestamp {
            seconds: time(self.height + 1).unwrap().seconds,
            nanos: 0,
        });
        let txs = [tx.to_vec().into()];
        let proposal = self.app.process_proposal(&txs, next, now.unwrap()).unwrap();
        assert!(proposal.is_some(), "{what}: a proposal with it passes");
        let own = self.app.prepare_proposal(&txs, next, now.unwrap(), 4 << 20).unwrap();
        assert!(own.is_empty(), "{what}: it is proposed");
        let with = self.finalize(&[tx]);
        assert_eq!(
            (with.tx_results[0].code, with.tx_results[0].log.as_str()),
            (code, check.log.as_str()),
            "{what}"
        );
        assert!(with.tx_results[0].events.is_empty(), "{what}");
        assert_eq!(self.block(&[]).app_hash, with.app_hash, "{what}: the state changed");
    }

    /// Asserts that a message of user 1 fails in its block, after its fee is paid; returns the log.
    pub fn refused_in_execution<M: Name>(&mut self, message: &M) -> String {
        let before = (self.balance(&user(1)), self.balance(&user(2)));
        let tx = TxBuilder::new().message(message).fee(500, "udn").gas(1_000_000);
        let (code, log) = self.deliver(&tx.sign(&key(1), &self.signer(1)));
        assert!(code != 0 && !log.is_empty(), "code {code}: {log}");
        assert_eq!((self.balance(&user(1)), self.balance(&user(2))), (before.0 - 500, before.1), "{log}");
        log
    }

    fn ask<R: Message + Default>(&self, path: &str, request: impl Message) -> R {
        let (_, answer) = self.app.query(path, 0, &request.encode_to_vec()).unwrap();
        R::decode(answer.as_slice()).unwrap()
    }

    pub fn signer(&self, n: u8) -> SignerData {
        let request = QueryAccountInfoRequest { address: user(n).to_string() };
        let answer: QueryAccountInfoResponse = self.ask("/cosmos.auth.v1beta1.Query/AccountInfo", request);
        let info = answer.info.unwrap();
        SignerData { chain_id: CHAIN_ID.into(), account_number: info.account_number, sequence: info.sequence }
    }

    pub fn balance(&self, address: &Address) -> u128 {
        let request = QueryBalanceRequest { address: address.to_string(), denom: "udn".into() };
        let answer: QueryBalanceResponse = self.ask("/cosmos.bank.v1beta1.Query/Balance", request);
        answer.balance.unwrap().amount.parse().unwrap()
    }
}
