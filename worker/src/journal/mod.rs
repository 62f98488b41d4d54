//! What a worker or an auditor must not forget, whatever happens to its process.

mod audits;
mod log;
mod tasks;

pub use audits::{AuditJournal, Sealed};
pub use log::{JournalError, Log};
pub use tasks::{TaskJournal, TaskState};
