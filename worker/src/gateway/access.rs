//! The access log: one line for each request when its answer has gone. Neither text nor keys are in it.

use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{Method, StatusCode};

/// Paths that are asked all the time, by machines.
const PROBES: [&str; 2] = ["/health", "/metrics"];

/// One request. Told when nobody holds it any more: after the last of its answer, or when whoever asked went away.
pub struct Access {
    method: Method,
    /// As routes have it, without what a client wrote there; none of an unknown path.
    path: Option<MatchedPath>,
    began: Instant,
    /// 0 while there is none.
    status: AtomicU16,
    pub prompt_tokens: AtomicUsize,
    pub output_tokens: AtomicUsize,
}

impl Access {
    /// Begins a request, as an extension of which endpoints find it.
    pub fn begin(request: &mut Request) -> Arc<Self> {
        let access = Arc::new(Self {
            method: request.method().clone(),
            path: request.extensions().get().cloned(),
            began: Instant::now(),
            status: AtomicU16::new(0),
            prompt_tokens: AtomicUsize::new(0),
            output_tokens: AtomicUsize::new(0),
        });
        request.extensions_mut().insert(access.clone());
        access
    }

    pub fn answered(&self, status: StatusCode) {
        self.status.store(status.as_u16(), Ordering::Relaxed);
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        let path = self.path.as_ref().map_or("unknown", MatchedPath::as_str);
        if PROBES.contains(&path) {
            return;
        }
        let tokens = |n: &mut AtomicUsize| Some(*n.get_mut()).filter(|n| *n > 0);
        tracing::info!(
            method = %self.method,
            path,
            status = Some(*self.status.get_mut()).filter(|status| *status > 0),
            prompt_tokens = tokens(&mut self.prompt_tokens),
            output_tokens = tokens(&mut self.output_tokens),
            milliseconds = self.began.elapsed().as_millis() as u64,
            "answered"
        );
    }
}
