use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinError;

/// Texts of a model that become tokens at a time: each may take a gigabyte for a text of the greatest length, and a chat a
/// process besides.
const AT_ONCE: usize = 2;

/// Where those wait who want a model to read texts.
#[derive(Clone, Debug)]
pub struct Readers(Arc<Semaphore>);

impl Default for Readers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl Readers {
    /// Runs `read` on a thread where it may block, when its turn comes. Who goes away while it waits has run nothing; what
    /// has begun keeps its turn to its end, so that no more threads than turns are ever taken. An error if it panicked.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        // Nobody closes the semaphore.
        let turn = self.0.clone().acquire_owned().await.ok();
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            read()
        })
        .await
    }
}
