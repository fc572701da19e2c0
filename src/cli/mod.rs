//! (being built)

pub mod sandbox_agent;
