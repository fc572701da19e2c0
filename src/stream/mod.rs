//! `stream`: WAL into the store as it is written, split by scope, acknowledged only when durable.
//!
//! ```text
//! server --START_REPLICATION--> splitter --parts--> committer --tail/stretch--> store
//!    ^------------------------- flushed = durable -------------------------------'
//! ```
//!
//! | file | what |
//! |---|---|
//! | [`preflight`] | is this server set up so that nothing can be lost |
//! | [`slot`] | our replication slot: free, whole, or made anew |
//! | [`resume`] | where the store's WAL ends: where to go on |
//! | [`bindings`] | which scope a database belongs to, from which LSN on |
//! | [`alarms`] | what a person is told meanwhile |
//! | [`cut`] | when a tail or a stretch is due (pure) |
//! | [`gather`] | what waits between two cuts |
//! | [`commit`] | seals and stores, in order, one at a time |
//! | [`session`] | everything above, set up for one cluster |
//! | [`receive`] | the loop that ties them |
//! | [`files`] | new filestore files, shipped along |

pub mod alarms;
pub mod bindings;
pub mod commit;
pub mod cut;
pub mod files;
pub mod gather;
pub mod preflight;
pub mod receive;
pub mod resume;
pub mod session;
pub mod slot;
