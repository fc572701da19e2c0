//! `global/pg_control`: what a cluster says about itself.
//!
//! A C structure, little-endian on the machines we serve, ended by its CRC-32C (`src/include/catalog/pg_control.h`).
//! Where its fields lie depends on `pg_control_version`; [`LAYOUTS`] is the only place that knows. Read-only: lifeboat
//! never writes this file. The nonce that it also holds is passed over.

use crate::failure::{Failure, Kind};
use crate::ids::{Lsn, SystemId, Timeline};

/// Where the fields of one `pg_control_version` lie, in bytes from the beginning.
struct Layout {
    version: u32,
    majors: &'static str,
    checkpoint_redo: usize,
    timeline: usize,
    wal_level: usize,
    max_connections: usize,
    max_worker_processes: usize,
    max_wal_senders: usize,
    max_prepared_transactions: usize,
    max_locks_per_transaction: usize,
    track_commit_timestamp: usize,
    block_bytes: usize,
    segment_blocks: usize,
    wal_block_bytes: usize,
    wal_segment_bytes: usize,
    checksum_version: usize,
    crc: usize,
}

const LAYOUTS: [Layout; 2] = [
    Layout {
        version: 1300,
        majors: "13 to 17",
        checkpoint_redo: 40,
        timeline: 48,
        wal_level: 172,
        max_connections: 180,
        max_worker_processes: 184,
        max_wal_senders: 188,
        max_prepared_transactions: 192,
        max_locks_per_transaction: 196,
        track_commit_timestamp: 200,
        block_bytes: 216,
        segment_blocks: 220,
        wal_block_bytes: 224,
        wal_segment_bytes: 228,
        checksum_version: 252,
        crc: 288,
    },
    // 18 put the signedness of char (one byte) before the nonce; nothing before it moved.
    Layout {
        version: 1800,
        majors: "18",
        checkpoint_redo: 40,
        timeline: 48,
        wal_level: 172,
        max_connections: 180,
        max_worker_processes: 184,
        max_wal_senders: 188,
        max_prepared_transactions: 192,
        max_locks_per_transaction: 196,
        track_commit_timestamp: 200,
        block_bytes: 216,
        segment_blocks: 220,
        wal_block_bytes: 224,
        wal_segment_bytes: 228,
        checksum_version: 252,
        crc: 292,
    },
];

/// The cluster's state when the file was written (`DBState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    StartingUp,
    ShutDown,
    ShutDownInRecovery,
    ShuttingDown,
    InCrashRecovery,
    InArchiveRecovery,
    InProduction,
}

/// How much WAL says (`wal_level`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WalLevel {
    Minimal,
    Replica,
    Logical,
}

/// What lifeboat needs of `pg_control`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlFile {
    pub system_id: SystemId,
    pub control_version: u32,
    pub catalog_version: u32,
    pub state: State,
    /// Where replay from the last checkpoint begins.
    pub checkpoint_redo: Lsn,
    pub timeline: Timeline,
    pub wal_level: WalLevel,
    pub max_connections: u32,
    pub max_worker_processes: u32,
    pub max_wal_senders: u32,
    pub max_prepared_transactions: u32,
    pub max_locks_per_transaction: u32,
    pub track_commit_timestamp: bool,
    pub block_bytes: u32,
    pub segment_blocks: u32,
    pub wal_block_bytes: u32,
    pub wal_segment_bytes: u32,
    /// 0: pages carry no checksums.
    pub checksum_version: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    #[error("pg_control has {bytes} bytes, too few")]
    Short { bytes: usize },
    #[error("pg_control is of version {version}; known are {known}")]
    Version { version: u32, known: String },
    #[error("pg_control's checksum is wrong")]
    Checksum,
    #[error("pg_control says {field} = {value}")]
    Value { field: &'static str, value: u32 },
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        let (kind, next) = match error {
            ControlError::Version { .. } => (Kind::Failed, "use a lifeboat that knows this PostgreSQL version"),
            ControlError::Short { .. } | ControlError::Checksum | ControlError::Value { .. } => {
                (Kind::Integrity, "take or restore another base backup; this one's control file is damaged")
            }
        };
        Self::new(kind, "global/pg_control", error.to_string(), next)
    }
}

/// Reads little-endian numbers out of a file that may be too short.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> Result<[u8; N], ControlError> {
        let found = self.0.get(at..).and_then(|rest| rest.first_chunk::<N>());
        found.copied().ok_or(ControlError::Short { bytes: self.0.len() })
    }
    fn u32(&self, at: usize) -> Result<u32, ControlError> {
        self.bytes(at).map(u32::from_le_bytes)
    }
    fn u64(&self, at: usize) -> Result<u64, ControlError> {
        self.bytes(at).map(u64::from_le_bytes)
    }
}

impl ControlFile {
    /// Reads the file's content (8192 bytes, of which the first three hundred count).
    ///
    /// # Errors
    /// When it is cut short, of an unknown version, damaged, or says what cannot be.
    pub fn parse(content: &[u8]) -> Result<Self, ControlError> {
        let fields = Fields(content);
        let version = fields.u32(8)?;
        let layout = LAYOUTS.iter().find(|layout| layout.version == version).ok_or_else(|| {
            let known: Vec<_> = LAYOUTS.iter().map(|known| format!("{} ({})", known.version, known.majors)).collect();
            ControlError::Version { version, known: known.join(", ") }
        })?;
        let covered = content.get(..layout.crc).ok_or(ControlError::Short { bytes: content.len() })?;
        if crc32c::crc32c(covered) != fields.u32(layout.crc)? {
            return Err(ControlError::Checksum);
        }
        let [track_commit_timestamp] = fields.bytes::<1>(layout.track_commit_timestamp)?;
        let control = Self {
            system_id: SystemId(fields.u64(0)?),
            control_version: version,
            catalog_version: fields.u32(12)?,
            state: state(fields.u32(16)?)?,
            checkpoint_redo: Lsn(fields.u64(layout.checkpoint_redo)?),
            timeline: Timeline(fields.u32(layout.timeline)?),
            wal_level: wal_level(fields.u32(layout.wal_level)?)?,
            max_connections: fields.u32(layout.max_connections)?,
            max_worker_processes: fields.u32(layout.max_worker_processes)?,
            max_wal_senders: fields.u32(layout.max_wal_senders)?,
            max_prepared_transactions: fields.u32(layout.max_prepared_transactions)?,
            max_locks_per_transaction: fields.u32(layout.max_locks_per_transaction)?,
            track_commit_timestamp: track_commit_timestamp != 0,
            block_bytes: fields.u32(layout.block_bytes)?,
            segment_blocks: fields.u32(layout.segment_blocks)?,
            wal_block_bytes: fields.u32(layout.wal_block_bytes)?,
            wal_segment_bytes: fields.u32(layout.wal_segment_bytes)?,
            checksum_version: fields.u32(layout.checksum_version)?,
        };
        let size = control.wal_segment_bytes;
        if !size.is_power_of_two() || !(1 << 20..=1 << 30).contains(&size) {
            return Err(ControlError::Value { field: "wal_segment_size", value: size });
        }
        Ok(control)
    }
}

fn state(value: u32) -> Result<State, ControlError> {
    Ok(match value {
        0 => State::StartingUp,
        1 => State::ShutDown,
        2 => State::ShutDownInRecovery,
        3 => State::ShuttingDown,
        4 => State::InCrashRecovery,
        5 => State::InArchiveRecovery,
        6 => State::InProduction,
        value => return Err(ControlError::Value { field: "state", value }),
    })
}

fn wal_level(value: u32) -> Result<WalLevel, ControlError> {
    Ok(match value {
        0 => WalLevel::Minimal,
        1 => WalLevel::Replica,
        2 => WalLevel::Logical,
        value => return Err(ControlError::Value { field: "wal_level", value }),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sample() -> Vec<u8> {
        let mut content = vec![0; 8192];
        content[8..12].copy_from_slice(&1300_u32.to_le_bytes());
        content[228..232].copy_from_slice(&(16_u32 << 20).to_le_bytes());
        let crc = crc32c::crc32c(&content[..288]);
        content[288..292].copy_from_slice(&crc.to_le_bytes());
        content
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let whole = sample();
        ControlFile::parse(&whole).unwrap();
        for bit in 0..292 * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(ControlFile::parse(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        let whole = sample();
        for length in 0..292 {
            assert!(ControlFile::parse(&whole[..length]).is_err(), "{length} bytes");
        }
    }
}
