//! Methods that the descriptors name and no node serves, each with its reason. A test holds this list against the
//! descriptors: what is neither served nor here fails it.

const NO_MODULE: &str = "this chain does not have the module yet";

const LEGACY: &str = "legacy contents are not supported: a proposal of gov v1 carries messages";

/// The beginning of a path, and why what begins with it is refused.
pub const REFUSED: &[(&str, &str)] = &[
    ("/cosmos.authz.v1beta1.", NO_MODULE),
    ("/cosmos.distribution.v1beta1.", NO_MODULE),
    ("/cosmos.evidence.v1beta1.", NO_MODULE),
    ("/cosmos.feegrant.v1beta1.", NO_MODULE),
    ("/cosmos.gov.v1.Msg/ExecLegacyContent", LEGACY),
    ("/cosmos.gov.v1beta1.Msg/SubmitProposal", LEGACY),
    ("/cosmos.mint.v1beta1.", NO_MODULE),
    ("/cosmos.params.v1beta1.", "parameters live in their modules: ask each module's Params"),
    ("/cosmos.slashing.v1beta1.", NO_MODULE),
    ("/cosmos.upgrade.v1beta1.", NO_MODULE),
    ("/cosmos.vesting.v1beta1.", NO_MODULE),
    ("/cosmos.tx.v1beta1.Service/TxEncodeAmino", "amino's binary form is not supported: use TxEncode"),
    ("/cosmos.tx.v1beta1.Service/TxDecodeAmino", "amino's binary form is not supported: use TxDecode"),
    ("/deepnode.serving.v1.Serving/", "workers serve it, not nodes: a worker's endpoint is in its record (deepnode.workers.v1.Query/Worker)"),
];

/// Why `path` is refused, if it is a method that no node serves.
pub fn reason(path: &str) -> Option<&'static str> {
    let listed = REFUSED.iter().find(|(prefix, _)| path.starts_with(prefix)).map(|(_, reason)| *reason);
    listed.or_else(|| {
        let message = path.rsplit_once('/').is_some_and(|(service, _)| service.ends_with(".Msg"));
        message
            .then_some("a message travels in a transaction: send it by cosmos.tx.v1beta1.Service/BroadcastTx")
    })
}
