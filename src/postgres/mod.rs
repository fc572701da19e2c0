//! Speaking with PostgreSQL and reading what it writes; knows nothing of the repository.
pub mod wal;
