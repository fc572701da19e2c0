//! The checks that the agent makes inside, one after another; each tries what must not work, or reads from the kernel what
//! must be so. None trusts that the sandbox was built as planned.

mod files;
mod network;
mod process;

use super::proof::{Outside, ProofCheck};

/// Makes all checks. `own` are the file descriptors that the agent has opened itself for this conversation.
#[must_use]
pub fn all(outside: &Outside, own: &[i32]) -> Vec<ProofCheck> {
    let mut checks = process::checks(outside, own);
    checks.extend(network::checks(outside));
    checks.extend(files::checks(outside));
    checks
}
