//! The CometBFT process beside the application: found ([`Binary`]), configured ([`Home`]), kept alive ([`Supervisor`]) and
//! asked ([`Rpc`]).
//!
//! CometBFT never reconnects: it ends when the application does, and now and then hangs while ending, holding its database
//! lock. So the application listens first, CometBFT is a child that is always started again, and one that lingers is
//! killed. Wrong answers leave it running at a frozen height, so health is an advancing height.

mod binary;
mod home;
mod rpc;
mod supervise;

pub use binary::{Binary, BinaryError};
pub use home::{Config, Home, HomeError, Timeouts};
pub use rpc::{Rpc, RpcError};
pub use supervise::{Options, Status, Supervisor, Timing, Unhealthy};

#[cfg(test)]
mod fake {
    use std::path::{Path, PathBuf};
    use std::process::Command;

    /// A program `dir/cometbft` that runs `body`. A shell writes it: were the file open for writing in this process, a test
    /// that forks at that moment would carry it along, and running the program would fail (ETXTBSY).
    pub fn program(dir: &Path, body: &str) -> PathBuf {
        let path = dir.join("cometbft");
        let write = Command::new("sh")
            .args(["-c", "printf '%s\n' '#!/bin/sh' \"$1\" > \"$0\" && chmod 755 \"$0\""])
            .arg(&path)
            .arg(body)
            .status();
        assert!(write.unwrap().success());
        path
    }
}
