//! Every method that the descriptors name, called on a running node over gRPC, REST and ABCI.

mod harness;

use std::collections::BTreeSet;

use deepnode_abci_server::comet::Rpc;
use deepnode_abci_server::node::grpc::Raw;
use deepnode_abci_server::node::refused::{reason, REFUSED};
use deepnode_proto::cosmos::autocli::v1::AppOptionsResponse;
use deepnode_proto::cosmos::base::node::v1beta1 as node_v1;
use deepnode_proto::cosmos::base::query::v1beta1::PageRequest;
use deepnode_proto::cosmos::base::reflection::v1beta1 as interfaces;
use deepnode_proto::cosmos::base::tendermint::v1beta1 as comet;
use deepnode_proto::cosmos::reflection::v1::FileDescriptorsResponse;
use deepnode_proto::cosmos::tx::v1beta1 as tx;
use deepnode_proto::Message;
use harness::{Node, KEYS};
use prost_reflect::{MethodDescriptor, ReflectMessage, Value};
use tendermint_rpc::Client as _;
use tonic::Code;

/// A running node and the connections to it.
struct Served {
    node: Node,
    channel: tonic::transport::Channel,
    rpc: Rpc,
}

impl Served {
    async fn start() -> Self {
        let mut node = Node::new();
        node.start();
        node.client().await;
        node.wait_for_height(2).await;
        let channel = tonic::transport::Channel::from_shared(format!("http://127.0.0.1:{}", node.grpc));
        let channel = channel.unwrap().connect().await.unwrap();
        let rpc = Rpc::new(&format!("http://127.0.0.1:{}", node.rpc)).unwrap();
        Served { node, channel, rpc }
    }

    async fn grpc(&self, path: &str, request: Vec<u8>) -> Result<Vec<u8>, tonic::Status> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(64 << 20);
        grpc.ready().await.unwrap();
        let answer = grpc.unary(tonic::Request::new(request), path.parse().unwrap(), Raw).await?;
        assert_eq!(answer.metadata().get_all("x-cosmos-block-height").iter().count(), 1, "{path}");
        Ok(answer.into_inner())
    }

    /// Over gRPC and over ABCI, which must answer alike.
    async fn ask<R: Message + Default>(&self, path: &str, request: impl Message) -> R {
        let bytes = self.grpc(path, request.encode_to_vec()).await.unwrap_or_else(|e| panic!("{path}: {e}"));
        let abci = self.abci(path, request.encode_to_vec()).await;
        assert_eq!(abci.0, 0, "{path} over ABCI: {}", abci.1);
        R::decode(abci.2.as_slice()).unwrap();
        R::decode(bytes.as_slice()).unwrap()
    }

    /// Code, log and value.
    async fn abci(&self, path: &str, data: Vec<u8>) -> (u32, String, Vec<u8>) {
        let answer = self.rpc.client().abci_query(Some(path.into()), data, None, false).await.unwrap();
        (answer.code.value(), answer.log, answer.value)
    }

    async fn rest(&self, verb: &str, path: &str) -> (u16, String) {
        let url = format!("http://127.0.0.1:{}{path}", self.node.rest);
        let client = reqwest::Client::new();
        let request = if verb == "post" { client.post(url).body("{}") } else { client.get(url) };
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }
}

fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

fn methods() -> Vec<MethodDescriptor> {
    deepnode_proto::pool().services().flat_map(|service| service.methods().collect::<Vec<_>>()).collect()
}

/// The verbs and paths of a method's `google.api.http`, with 0 for every field.
fn bindings(method: &MethodDescriptor) -> Vec<(&'static str, String)> {
    let option = deepnode_proto::pool().get_extension_by_name("google.api.http").unwrap();
    let options = method.options();
    if !options.has_extension(&option) {
        return Vec::new();
    }
    let rule = options.get_extension(&option);
    let rule = rule.as_message().unwrap();
    assert_eq!(rule.descriptor().full_name(), "google.api.HttpRule");
    let more = rule.get_field_by_name("additional_bindings").unwrap();
    let more = more.as_list().unwrap().iter().filter_map(Value::as_message);
    let mut found = Vec::new();
    for rule in std::iter::once(rule).chain(more) {
        for verb in ["get", "post"] {
            let template = rule.get_field_by_name(verb).unwrap();
            let template = template.as_str().unwrap();
            let fill = |part: &str| if part.starts_with('{') { "0".to_owned() } else { part.to_owned() };
            if !template.is_empty() {
                found.push((verb, template.split('/').map(fill).collect::<Vec<_>>().join("/")));
            }
        }
    }
    assert!(!found.is_empty(), "{}: no binding that REST knows", path(method));
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_is_served_three_ways_or_refused_with_its_reason() {
    let served = Served::start().await;
    let mut wrong = Vec::new();
    for method in methods() {
        let path = path(&method);
        let grpc = served.grpc(&path, Vec::new()).await;
        let code = grpc.as_ref().err().map_or(Code::Ok, tonic::Status::code);
        let (abci, log, _) = served.abci(&path, Vec::new()).await;
        match reason(&path) {
            None => {
                if matches!(code, Code::Unimplemented | Code::Unavailable | Code::Internal | Code::Unknown) {
                    wrong.push(format!("{path}: gRPC {grpc:?}"));
                }
                if !matches!(abci, 0 | 18 | 22 | 26) {
                    wrong.push(format!("{path}: ABCI {abci} {log}"));
                }
            }
            Some(reason) => {
                let message = grpc.as_ref().err().map_or("", tonic::Status::message);
                if code != Code::Unimplemented || !message.contains(reason) {
                    wrong.push(format!("{path} is listed as refused: gRPC {grpc:?}"));
                }
                if abci != 6 || !log.contains(reason) {
                    wrong.push(format!("{path} is listed as refused: ABCI {abci} {log}"));
                }
            }
        }
        for (verb, url) in bindings(&method) {
            let (status, body) = served.rest(verb, &url).await;
            let refusal = reason(&path);
            let good = match refusal {
                None => matches!(status, 200 | 400 | 404),
                Some(reason) => status == 501 && body.contains(reason),
            };
            if !good {
                wrong.push(format!("{path}: {verb} {url}: {status} {body}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), methods().len(), wrong.join("\n"));
    reflection(&served).await;
    transactions(&served).await;
    blocks(&served).await;
    the_node(&served).await;
    strangers(&served).await;
}

#[test]
fn the_list_of_refusals_names_what_exists_and_no_message_is_forgotten() {
    let paths: Vec<_> = methods().iter().map(path).collect();
    for (prefix, reason) in REFUSED {
        assert!(paths.iter().any(|p| p.starts_with(prefix)), "{prefix} names no method");
        assert!(!reason.is_empty());
    }
    let handled = deepnode_app::Modules::new();
    let handled: BTreeSet<_> = handled.messages.type_urls().map(str::to_owned).collect();
    let mut wrong = Vec::new();
    for method in methods().iter().filter(|m| m.parent_service().name() == "Msg") {
        let url = format!("/{}", method.input().full_name());
        let refused = REFUSED.iter().any(|(prefix, _)| path(method).starts_with(prefix));
        if handled.contains(&url) == refused {
            wrong.push(url);
        }
    }
    assert!(wrong.is_empty(), "neither handled nor refused, or both: {wrong:?}");
}

async fn reflection(served: &Served) {
    use tonic_reflection::pb::{v1, v1alpha};
    let expected: BTreeSet<_> = deepnode_proto::pool().services().map(|s| s.full_name().to_owned()).collect();
    macro_rules! listed {
        ($version:ident) => {{
            use $version::server_reflection_request::MessageRequest;
            use $version::server_reflection_response::MessageResponse;
            let ask = $version::ServerReflectionRequest {
                host: String::new(),
                message_request: Some(MessageRequest::ListServices(String::new())),
            };
            let mut client =
                $version::server_reflection_client::ServerReflectionClient::new(served.channel.clone());
            let stream = futures::stream::iter([ask]);
            let mut answers = client.server_reflection_info(stream).await.unwrap().into_inner();
            match answers.message().await.unwrap().unwrap().message_response.unwrap() {
                MessageResponse::ListServicesResponse(list) => {
                    list.service.into_iter().map(|s| s.name).collect::<BTreeSet<_>>()
                }
                other => panic!("{other:?}"),
            }
        }};
    }
    for listed in [listed!(v1), listed!(v1alpha)] {
        let missing: Vec<_> = expected.difference(&listed).collect();
        assert!(missing.is_empty(), "reflection lists no {missing:?}");
    }

    let files: FileDescriptorsResponse =
        served.ask("/cosmos.reflection.v1.ReflectionService/FileDescriptors", ()).await;
    assert_eq!(files.files.len(), deepnode_proto::pool().files().len());
    let options: AppOptionsResponse = served.ask("/cosmos.autocli.v1.Query/AppOptions", ()).await;
    let gov = &options.module_options["gov"];
    assert_eq!(gov.query.as_ref().unwrap().service, "cosmos.gov.v1.Query");
    assert_eq!(options.module_options["powr"].tx.as_ref().unwrap().service, "deepnode.powr.v1.Msg");
    let service = "/cosmos.base.reflection.v1beta1.ReflectionService";
    let all: interfaces::ListAllInterfacesResponse =
        served.ask(&format!("{service}/ListAllInterfaces"), ()).await;
    for (interface, implementation) in [
        ("cosmos.auth.v1beta1.AccountI", "/cosmos.auth.v1beta1.BaseAccount"),
        ("cosmos.base.v1beta1.Msg", "/deepnode.tasks.v1.MsgSubmitTask"),
    ] {
        assert!(all.interface_names.iter().any(|name| name == interface), "{interface}");
        let request = interfaces::ListImplementationsRequest { interface_name: interface.into() };
        let found: interfaces::ListImplementationsResponse =
            served.ask(&format!("{service}/ListImplementations"), request).await;
        assert!(found.implementation_message_names.iter().any(|n| n == implementation), "{found:?}");
    }
}

async fn transactions(served: &Served) {
    let node = &served.node;
    let send = ["tx", "bank", "send", "me", "you", "5udn", "-o", "json"];
    let sent = node.json(&[&send, &KEYS[..]].concat());
    let hash = sent["txhash"].as_str().unwrap().to_owned();
    let service = "/cosmos.tx.v1beta1.Service";

    // By its hash, by an event, in its block: one and the same transaction.
    let found: tx::GetTxResponse =
        served.ask(&format!("{service}/GetTx"), tx::GetTxRequest { hash: hash.clone() }).await;
    let height = found.tx_response.unwrap().height;
    let found = found.tx.unwrap();
    let events = tx::GetTxsEventRequest { query: format!("tx.height={height}"), ..Default::default() };
    let by_event: tx::GetTxsEventResponse = served.ask(&format!("{service}/GetTxsEvent"), events).await;
    assert_eq!((by_event.total, &by_event.txs), (1, &vec![found.clone()]));
    let request = tx::GetBlockWithTxsRequest { height, pagination: None };
    let block: tx::GetBlockWithTxsResponse =
        served.ask(&format!("{service}/GetBlockWithTxs"), request.clone()).await;
    assert_eq!(block.txs, std::slice::from_ref(&found));
    assert_eq!(block.block.unwrap().header.unwrap().height, height);
    let beyond = PageRequest { offset: 1, ..PageRequest::default() };
    let request = tx::GetBlockWithTxsRequest { pagination: Some(beyond), ..request };
    let error =
        served.grpc(&format!("{service}/GetBlockWithTxs"), request.encode_to_vec()).await.unwrap_err();
    assert!(error.message().contains("pagination.offset 1 must be below 1"), "{error}");
    let request = tx::GetBlockWithTxsRequest { height: 1 << 40, pagination: None };
    let error =
        served.grpc(&format!("{service}/GetBlockWithTxs"), request.encode_to_vec()).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    let none = tx::GetTxRequest { hash: "00".repeat(32) };
    let (code, log, _) = served.abci(&format!("{service}/GetTx"), none.encode_to_vec()).await;
    assert_eq!(code, 22, "{log}");
    assert!(log.contains("tx not found"), "{log}");

    // Encoded and decoded again it is the same, bytes and hash.
    let encoded: tx::TxEncodeResponse =
        served.ask(&format!("{service}/TxEncode"), tx::TxEncodeRequest { tx: Some(found.clone()) }).await;
    assert_eq!(hex::encode_upper(deepnode_tx::hash(&encoded.tx_bytes)), hash);
    let request = tx::TxDecodeRequest { tx_bytes: encoded.tx_bytes.clone() };
    let decoded: tx::TxDecodeResponse = served.ask(&format!("{service}/TxDecode"), request).await;
    assert_eq!(decoded.tx.unwrap(), found);
    let request = tx::TxDecodeRequest { tx_bytes: [encoded.tx_bytes.as_slice(), &[0x20, 1]].concat() };
    let error = served.grpc(&format!("{service}/TxDecode"), request.encode_to_vec()).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");

    // A query sends nothing.
    let request = tx::BroadcastTxRequest { tx_bytes: encoded.tx_bytes, mode: tx::BroadcastMode::Sync.into() };
    let (code, log, _) = served.abci(&format!("{service}/BroadcastTx"), request.encode_to_vec()).await;
    assert_eq!(code, 18, "{log}");
    assert!(log.contains("broadcast_tx_sync"), "{log}");
    let answer = served.grpc(&format!("{service}/BroadcastTx"), request.encode_to_vec()).await.unwrap();
    let answer = tx::BroadcastTxResponse::decode(answer.as_slice()).unwrap().tx_response.unwrap();
    assert_eq!((answer.code, answer.txhash), (19, hash), "it is in the mempool's cache");
}

async fn blocks(served: &Served) {
    let service = "/cosmos.base.tendermint.v1beta1.Service";
    let info: comet::GetNodeInfoResponse = served.ask(&format!("{service}/GetNodeInfo"), ()).await;
    assert_eq!(info.default_node_info.unwrap().network, "test-1");
    assert_eq!(info.application_version.unwrap().build_deps[0].path, "github.com/cosmos/cosmos-sdk");
    let syncing: comet::GetSyncingResponse = served.ask(&format!("{service}/GetSyncing"), ()).await;
    assert!(!syncing.syncing);
    let latest: comet::GetLatestBlockResponse = served.ask(&format!("{service}/GetLatestBlock"), ()).await;
    let header = latest.sdk_block.unwrap().header.unwrap();
    assert_eq!(header.height, latest.block.unwrap().header.unwrap().height);
    assert!(header.proposer_address.starts_with("dnvalcons1"), "{header:?}");
    let request = comet::GetBlockByHeightRequest { height: 1 };
    let first: comet::GetBlockByHeightResponse =
        served.ask(&format!("{service}/GetBlockByHeight"), request).await;
    assert_eq!(first.block.unwrap().header.unwrap().height, 1);
    let set: comet::GetLatestValidatorSetResponse =
        served.ask(&format!("{service}/GetLatestValidatorSet"), ()).await;
    assert_eq!((set.validators.len(), set.pagination.unwrap().total), (1, 1));
    assert_eq!(set.validators[0].address, header.proposer_address);
    let request = comet::GetValidatorSetByHeightRequest { height: 1, pagination: None };
    let first: comet::GetValidatorSetByHeightResponse =
        served.ask(&format!("{service}/GetValidatorSetByHeight"), request).await;
    assert_eq!((first.block_height, &first.validators[0].pub_key), (1, &set.validators[0].pub_key));

    // ABCI's own paths through gRPC, with a proof; no method leads back to itself.
    let request = comet::AbciQueryRequest {
        data: vec![0x00],
        path: "/store/auth/key".into(),
        height: header.height,
        prove: true,
    };
    let proved: comet::AbciQueryResponse = served.ask(&format!("{service}/ABCIQuery"), request).await;
    assert_eq!(proved.code, 0, "{}", proved.log);
    assert!(!proved.value.is_empty(), "auth's parameters");
    assert_eq!(proved.proof_ops.unwrap().ops.len(), 2);
    let request = comet::AbciQueryRequest { path: format!("{service}/ABCIQuery"), ..Default::default() };
    let error = served.grpc(&format!("{service}/ABCIQuery"), request.encode_to_vec()).await.unwrap_err();
    assert!(error.message().contains("must begin with /app, /store or /p2p"), "{error}");

    let (code, _, version) = served.abci("/app/version", Vec::new()).await;
    assert_eq!((code, version.as_slice()), (0, env!("CARGO_PKG_VERSION").as_bytes()));
    assert_eq!(served.abci("/p2p/filter/id/00", Vec::new()).await.0, 0);
    let (code, log, _) = served.abci("/app/nonsense", Vec::new()).await;
    assert_eq!(code, 6);
    assert!(log.contains("/app/simulate"), "{log}");
    let (code, log, pairs) = served.abci("/store/auth/subspace", vec![0x04]).await;
    assert_eq!(code, 0, "{log}");
    assert!(String::from_utf8_lossy(&pairs).contains("fee_collector"));
    assert_eq!(served.abci("/store/nothing/key", vec![0]).await.0, 6);
}

async fn the_node(served: &Served) {
    let service = "/cosmos.base.node.v1beta1.Service";
    let config: node_v1::ConfigResponse = served.ask(&format!("{service}/Config"), ()).await;
    assert_eq!((config.minimum_gas_price.as_str(), config.pruning_keep_recent.as_str()), ("0udn", "100"));
    let status: node_v1::StatusResponse = served.ask(&format!("{service}/Status"), ()).await;
    assert!(status.height > 1 && status.earliest_store_height <= status.height, "{status:?}");

    for port in [served.node.metrics, served.node.rest] {
        let answer =
            reqwest::get(format!("http://127.0.0.1:{port}/metrics?format=prometheus")).await.unwrap();
        let text = answer.text().await.unwrap();
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
        };
        assert!(value("deepnode_block_height") >= status.height as f64);
        assert_eq!(value("deepnode_txs_total{result=\"ok\"}"), 1.0);
        assert_eq!(value("deepnode_checktx_total{kind=\"new\",result=\"accepted\"}"), 1.0);
        assert!(value("deepnode_block_execution_seconds_count") >= 2.0);
        assert!(value("deepnode_block_execution_seconds_sum") > 0.0);
    }
}

/// What arrives at the open ports: each answer names what is wrong, and the node goes on.
async fn strangers(served: &Served) {
    let broadcast = |tx_bytes: Vec<u8>| {
        let request = tx::BroadcastTxRequest { tx_bytes, mode: tx::BroadcastMode::Sync.into() };
        served.grpc("/cosmos.tx.v1beta1.Service/BroadcastTx", request.encode_to_vec())
    };
    let refused = |answer: Vec<u8>| {
        let answer = tx::BroadcastTxResponse::decode(answer.as_slice()).unwrap().tx_response.unwrap();
        (answer.code, answer.raw_log)
    };
    let (code, log) = refused(broadcast(b"noise".to_vec()).await.unwrap());
    assert!(code == 2 && log.contains("TxRaw"), "{code} {log}");
    let (code, log) = refused(broadcast(vec![0x0a; 1_048_576]).await.unwrap());
    assert!(code == 2, "the largest transaction reaches the mempool: {code} {log}");
    let (code, log) = refused(broadcast(vec![0x0a; 1_048_577]).await.unwrap());
    assert!(code == 21 && log.contains("1048576"), "{code} {log}");
    let error = broadcast(Vec::new()).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    let error = served.grpc("/cosmos.bank.v1beta1.Query/Balance", vec![0xff; 40]).await.unwrap_err();
    assert!(error.code() == Code::InvalidArgument && error.message().starts_with("request:"), "{error}");
    let error = served.grpc("/nothing.Query/Nothing", Vec::new()).await.unwrap_err();
    assert!(error.code() == Code::Unimplemented && error.message().contains("/nothing.Query"), "{error}");

    let rest = format!("http://127.0.0.1:{}", served.node.rest);
    let http = reqwest::Client::new();
    let simulate = |body: String| http.post(format!("{rest}/cosmos/tx/v1beta1/simulate")).body(body).send();
    for (body, text) in [
        ("{".to_owned(), "body: "),
        ("[]".to_owned(), "SimulateRequest"),
        ("{\"nothing\":1}".to_owned(), "nothing"),
        ("{\"tx_bytes\":\"?\"}".to_owned(), "SimulateRequest"),
        ("x".repeat((2 << 20) + 1), "2097152 bytes"),
    ] {
        let answer = simulate(body).await.unwrap();
        let (status, text_of) = (answer.status().as_u16(), answer.text().await.unwrap());
        let json: serde_json::Value = serde_json::from_str(&text_of).unwrap();
        let message = json["message"].as_str().unwrap();
        assert!(status == 400 && json["code"] == 3 && message.contains(text), "{status} {text_of}");
    }
    let mut wrong = Vec::new();
    for (path, status, text) in [
        ("/cosmos/bank/v1beta1/balances/%ff%fe", 400, "address"),
        ("/cosmos/base/tendermint/v1beta1/blocks/-1", 400, "height -1 must be above 0"),
        ("/cosmos/base/tendermint/v1beta1/blocks/99999999999999999999", 400, "must be a 64-bit integer"),
        ("/cosmos/gov/v1/proposals?proposal_status=nonsense", 400, "proposal_status"),
        ("/cosmos/bank/v1beta1/supply?pagination.limit=-1", 400, "must be a 64-bit integer, 0 or above"),
        ("/cosmos/bank/v1beta1/supply?pagination.count_total=maybe", 400, "must be true or false"),
        ("/cosmos/mint/v1beta1/params", 501, "does not have the module"),
        ("/../../etc/passwd", 501, "Not Implemented"),
    ] {
        let (got, body) = served.rest("get", path).await;
        if got != status || !body.contains(text) {
            wrong.push(format!("{path}: {got} {body}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let answer = http.get(format!("{rest}/cosmos/bank/v1beta1/params")).header("x-cosmos-block-height", "-5");
    let answer = answer.send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 400);
    assert!(answer.text().await.unwrap().contains("x-cosmos-block-height \\\"-5\\\" must be a height"));

    let before = served.node.height();
    served.node.wait_for_height(before + 1).await;
}
