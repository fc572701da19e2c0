//! Who may open, and who may destroy: the keys of scopes, kept where no single person and no single store is enough.
//!
//! | where | what |
//! |---|---|
//! | [`key_name`], [`key_stores`] | what lies in a keys store; two of them, written together |
//! | [`custody`] | the custody key: who may open it together, how a custodian proves that he still can |
//! | [`deposit`] | scope keys into both keys stores, before anything is sealed to them |
//! | [`opening`] | scope keys out again, by custodians or by the drill host |
//! | [`upkeep`] | locks that roll, and what a person should know about the keys |
//! | [`copies`], [`shred`], [`ssh`] | registered copies; destroying a scope's keys, with the proof that it was done; who signs that |
//!
//! Not here: the keys themselves (`repo::key`, `repo::identities`) and the ledger of what was erased (`repo::erasure`).

pub mod copies;
pub mod custody;
pub mod deposit;
pub mod key_name;
pub mod key_stores;
pub mod opening;
pub mod shred;
pub mod ssh;
pub mod upkeep;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
