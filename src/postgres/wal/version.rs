//! Everything that differs, or may differ, between majors of PostgreSQL: one table each, found by page magic.
//!
//! A new major is a new [`Version`] with its own [`Rule`]s. What is not in a table is unknown, and unknown WAL
//! is refused (page magic) or quarantined (record).
//!
//! Sources, for 15: `access/{xlog_internal,xlogrecord,rmgrlist,xact,heapam_xlog,nbtxlog,gistxlog}.h`,
//! `catalog/{pg_control,storage_xlog}.h`, `commands/{dbcommands_xlog,tablespace}.h`, `storage/{standbydefs,
//! lockdefs,sinval}.h`, `utils/relmapper.h`, `replication/message.h`.

use super::WalError;
use crate::ids::Lsn;

/// Resource manager ids that code refers to by name (the same in every known major).
pub mod rmgr {
    pub const XLOG: u8 = 0;
    pub const XACT: u8 = 1;
    pub const SMGR: u8 = 2;
    pub const CLOG: u8 = 3;
    pub const DBASE: u8 = 4;
    pub const TBLSPC: u8 = 5;
    pub const MULTIXACT: u8 = 6;
    pub const RELMAP: u8 = 7;
    pub const STANDBY: u8 = 8;
    pub const HEAP2: u8 = 9;
    pub const HEAP: u8 = 10;
    pub const BTREE: u8 = 11;
    pub const GIST: u8 = 14;
    pub const COMMIT_TS: u8 = 18;
    pub const REPLORIGIN: u8 = 19;
    pub const LOGICALMSG: u8 = 21;
    /// Ids from here on belong to extensions (`RM_MIN_CUSTOM_ID`).
    pub const FIRST_CUSTOM: u8 = 128;
}

/// `XLOG_NOOP`: what stands in the cluster's part for a record of somebody else.
pub const INFO_NOOP: u8 = 0x20;
/// `XLOG_SWITCH`: the rest of the segment is unused.
pub const INFO_SWITCH: u8 = 0x40;

/// What the main data of a record without block references says about its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Nothing of a tenant's: it stays as it is.
    Shared,
    /// `xl_restore_point`: shared; time, then a name.
    RestorePoint,
    /// `xl_tblspc_create_rec`: shared; OID, then a path.
    Tablespace,
    /// The database's OID, at this offset.
    Database(usize),
    /// `xl_dbase_create_file_copy_rec`: the new database at 0, its tablespace at 4, the source at 8, its tablespace at 12.
    CreateByCopy,
    /// `xl_dbase_create_wal_log_rec`: the new database at 0.
    CreateByLog,
    /// `xl_dbase_drop_rec`: the database at 0, a count, and tablespaces.
    Drop,
    /// `xl_xact_commit`.
    Commit,
    /// `xl_xact_abort`.
    Abort,
    /// `xl_xact_invals`, written by logical decoding's needs; replay ignores it.
    TransactionInvalidations,
    /// `xl_invalidations`.
    StandbyInvalidations,
    /// `xl_standby_locks`.
    Locks,
}

/// One kind of record without block references: `info & mask == info`.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    rmgr: u8,
    mask: u8,
    info: u8,
    content: Content,
}

const fn rule(rmgr: u8, info: u8, content: Content) -> Rule {
    Rule { rmgr, mask: 0xF0, info, content }
}
/// A rule for every record of a resource manager.
const fn all(rmgr: u8, content: Content) -> Rule {
    Rule { rmgr, mask: 0, info: 0, content }
}
/// Transaction records use three bits for the kind, the fourth says that `xinfo` follows (`XLOG_XACT_OPMASK`).
const fn xact(info: u8, content: Content) -> Rule {
    Rule { rmgr: rmgr::XACT, mask: 0x70, info, content }
}
/// Heap records likewise (`XLOG_HEAP_OPMASK`).
const fn heap(rmgr: u8, info: u8, content: Content) -> Rule {
    Rule { rmgr, mask: 0x70, info, content }
}

/// What one major writes.
#[derive(Debug)]
pub struct Version {
    pub major: u32,
    /// `XLOG_PAGE_MAGIC`.
    pub page_magic: u16,
    /// The highest resource manager id of the server's own (`RM_MAX_BUILTIN_ID`).
    pub last_builtin_rmgr: u8,
    /// The size of an `xl_xact_stats_item` (16 from 18 on).
    pub dropped_stats_bytes: usize,
    /// `BKPIMAGE_HAS_HOLE`.
    pub image_has_hole: u8,
    /// All compression bits of an image's flags (`BKPIMAGE_COMPRESSED`).
    pub image_compressed: u8,
    rules: &'static [Rule],
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.page_magic == other.page_magic
    }
}
impl Eq for Version {}

impl Version {
    /// The version that writes pages with this magic.
    ///
    /// # Errors
    /// [`WalError::UnknownMagic`].
    pub fn of_magic(magic: u16, at: Lsn) -> Result<&'static Self, WalError> {
        KNOWN.iter().find(|v| v.page_magic == magic).ok_or(WalError::UnknownMagic { at, magic })
    }

    /// The version of a major (`server_version_num / 10000`).
    ///
    /// # Errors
    /// [`WalError::UnknownMajor`].
    pub fn of_major(major: u32) -> Result<&'static Self, WalError> {
        KNOWN.iter().find(|v| v.major == major).ok_or(WalError::UnknownMajor { major })
    }

    /// What a record without block references holds; none when this major does not write such a record.
    #[must_use]
    pub fn content(&self, rmgr: u8, info: u8) -> Option<Content> {
        self.rules.iter().find(|rule| rule.rmgr == rmgr && info & rule.mask == rule.info).map(|rule| rule.content)
    }

    /// Whether replay would accept this resource manager at all.
    #[must_use]
    pub fn has_rmgr(&self, id: u8) -> bool {
        id <= self.last_builtin_rmgr || id >= rmgr::FIRST_CUSTOM
    }
}

/// The majors that are read.
pub static KNOWN: &[Version] = &[POSTGRESQL_15];

const POSTGRESQL_15: Version = Version {
    major: 15,
    page_magic: 0xD110,
    last_builtin_rmgr: rmgr::LOGICALMSG,
    dropped_stats_bytes: 12,
    image_has_hole: 0x01,
    image_compressed: 0x04 | 0x08 | 0x10,
    rules: RULES_15,
};

const RULES_15: &[Rule] = &[
    xact(0x00, Content::Commit),
    xact(0x10, Content::Database(12)), // PREPARE: magic, length, xid, database
    xact(0x20, Content::Abort),
    xact(0x30, Content::Commit),
    xact(0x40, Content::Abort),
    xact(0x50, Content::Shared), // ASSIGNMENT: transaction ids
    xact(0x60, Content::TransactionInvalidations),
    rule(rmgr::XLOG, 0x00, Content::Shared), // CHECKPOINT_SHUTDOWN
    rule(rmgr::XLOG, 0x10, Content::Shared), // CHECKPOINT_ONLINE
    rule(rmgr::XLOG, INFO_NOOP, Content::Shared),
    rule(rmgr::XLOG, 0x30, Content::Shared), // NEXTOID
    rule(rmgr::XLOG, INFO_SWITCH, Content::Shared),
    rule(rmgr::XLOG, 0x50, Content::Shared), // BACKUP_END
    rule(rmgr::XLOG, 0x60, Content::Shared), // PARAMETER_CHANGE
    rule(rmgr::XLOG, 0x70, Content::RestorePoint),
    rule(rmgr::XLOG, 0x80, Content::Shared),      // FPW_CHANGE
    rule(rmgr::XLOG, 0x90, Content::Shared),      // END_OF_RECOVERY
    rule(rmgr::XLOG, 0xD0, Content::Shared),      // OVERWRITE_CONTRECORD
    rule(rmgr::SMGR, 0x10, Content::Database(4)), // CREATE: locator
    rule(rmgr::SMGR, 0x20, Content::Database(8)), // TRUNCATE: block, locator
    all(rmgr::CLOG, Content::Shared),
    rule(rmgr::DBASE, 0x00, Content::CreateByCopy),
    rule(rmgr::DBASE, 0x10, Content::CreateByLog),
    rule(rmgr::DBASE, 0x20, Content::Drop),
    rule(rmgr::TBLSPC, 0x00, Content::Tablespace),
    rule(rmgr::TBLSPC, 0x10, Content::Shared),
    all(rmgr::MULTIXACT, Content::Shared),
    rule(rmgr::RELMAP, 0x00, Content::Database(0)),
    rule(rmgr::STANDBY, 0x00, Content::Locks),
    rule(rmgr::STANDBY, 0x10, Content::Shared), // RUNNING_XACTS
    rule(rmgr::STANDBY, 0x20, Content::StandbyInvalidations),
    heap(rmgr::HEAP2, 0x00, Content::Database(4)), // REWRITE: xid, database
    heap(rmgr::HEAP2, 0x70, Content::Database(20)), // NEW_CID: four ids, locator
    heap(rmgr::HEAP, 0x30, Content::Database(0)),  // TRUNCATE, for logical decoding
    rule(rmgr::BTREE, 0xD0, Content::Database(4)), // REUSE_PAGE: locator
    rule(rmgr::GIST, 0x20, Content::Database(4)),  // PAGE_REUSE: locator
    rule(rmgr::GIST, 0x70, Content::Shared),       // ASSIGN_LSN: four zero bytes
    all(rmgr::COMMIT_TS, Content::Shared),
    all(rmgr::REPLORIGIN, Content::Shared),
    rule(rmgr::LOGICALMSG, 0x00, Content::Database(0)),
];
