//! Is this server set up so that nothing can be lost? Asked before the first byte, answered with what to change.
//!
//! The facts are read in one place ([`ServerFacts::read`]); the judgement is pure ([`judge`]).

use sqlx::PgConnection;

use crate::failure::{Failure, Kind};
use crate::postgres::sql;
use crate::watch::Finding;

/// Settings and states of a server that decide whether it can be protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    /// `server_version_num`, e.g. 150018.
    pub version: u32,
    pub wal_level: String,
    pub full_page_writes: bool,
    pub data_checksums: bool,
    /// `max_slot_wal_keep_size` in MB; -1 is unlimited.
    pub max_slot_wal_keep_mb: i64,
    pub max_replication_slots: u32,
    pub slots_used: u32,
    pub max_wal_senders: u32,
    pub wal_senders_used: u32,
    pub segment_bytes: u32,
    pub in_recovery: bool,
    pub slot: Option<SlotFacts>,
    /// Whether our role may start replication.
    pub may_replicate: bool,
}

/// Our slot, where it exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotFacts {
    pub active: bool,
    /// `pg_replication_slots.wal_status`: reserved, extended, unreserved, lost.
    pub wal_status: String,
    pub physical: bool,
}

const FACTS: &str = "SELECT current_setting('server_version_num'), current_setting('wal_level'), \
    current_setting('full_page_writes'), current_setting('data_checksums'), \
    (SELECT setting FROM pg_settings WHERE name = 'max_slot_wal_keep_size'), \
    current_setting('max_replication_slots'), (SELECT count(*)::text FROM pg_replication_slots), \
    current_setting('max_wal_senders'), (SELECT count(*)::text FROM pg_stat_replication), \
    (SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'), pg_is_in_recovery()::text, \
    (SELECT (rolreplication OR rolsuper)::text FROM pg_roles WHERE rolname = current_user)";

impl ServerFacts {
    /// Reads them over an ordinary connection.
    ///
    /// # Errors
    /// When the server refuses the query or answers something unreadable.
    pub async fn read(connection: &mut PgConnection, slot: &str) -> Result<Self, Failure> {
        let rows = sql::text_rows(connection, "the server's settings", FACTS).await?;
        let row = rows.into_iter().next().unwrap_or_default();
        let text = |index: usize| row.get(index).cloned().flatten().unwrap_or_default();
        let number = |index: usize| text(index).parse::<u32>().unwrap_or_default();
        let slots = sql::text_rows(
            connection,
            &format!("replication slot {slot}"),
            &format!(
                "SELECT active::text, coalesce(wal_status, ''), slot_type FROM pg_replication_slots WHERE slot_name = {}",
                sql::quoted_text(slot)
            ),
        )
        .await?;
        let slot = slots.first().map(|row| {
            let text = |index: usize| row.get(index).cloned().flatten().unwrap_or_default();
            SlotFacts { active: text(0) == "true", wal_status: text(1), physical: text(2) == "physical" }
        });
        Ok(Self {
            version: number(0),
            wal_level: text(1),
            full_page_writes: text(2) == "on",
            data_checksums: text(3) == "on",
            max_slot_wal_keep_mb: text(4).parse().unwrap_or(-1),
            max_replication_slots: number(5),
            slots_used: number(6),
            max_wal_senders: number(7),
            wal_senders_used: number(8),
            segment_bytes: number(9),
            in_recovery: text(10) == "true",
            slot,
            may_replicate: text(11) == "true",
        })
    }

    /// 15 for 15.18.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.version / 10_000
    }
}

/// What makes it impossible to go on, and what a person should know all the same.
///
/// # Errors
/// The first thing that must be changed, with the setting and the statement that changes it.
pub fn judge(
    facts: &ServerFacts,
    place: &str,
    slot: &str,
    allow_unbounded_slot: bool,
) -> Result<Vec<Finding>, Failure> {
    let no = |cause: String, next: &str| Err(Failure::new(Kind::Usage, format!("server {place}"), cause, next));
    if crate::postgres::wal::version::Version::of_major(facts.major()).is_err() {
        return no(
            format!("PostgreSQL {} is not a version whose WAL this lifeboat can split", facts.major()),
            "use a lifeboat that knows this version",
        );
    }
    if facts.wal_level == "minimal" {
        return no("wal_level is minimal".into(), "set wal_level = replica in postgresql.conf and restart the server");
    }
    if !facts.full_page_writes {
        return no("full_page_writes is off".into(), "set full_page_writes = on and reload the server");
    }
    if facts.in_recovery {
        return no("the server is a standby".into(), "point the cluster's host at the primary");
    }
    if !facts.may_replicate {
        return no(
            "the role may not start replication".into(),
            "ALTER ROLE ... REPLICATION, and give it a line in pg_hba.conf for database 'replication'",
        );
    }
    match &facts.slot {
        Some(found) if !found.physical => {
            return no(
                format!("slot {slot} is a logical one"),
                "name another slot in lifeboat.toml ([clusters.<name>] slot)",
            );
        }
        None if facts.slots_used >= facts.max_replication_slots => {
            return no(
                format!("all {} replication slots are taken", facts.max_replication_slots),
                "raise max_replication_slots or drop a slot nobody uses",
            );
        }
        _ => {}
    }
    if facts.wal_senders_used >= facts.max_wal_senders {
        return no(format!("all {} WAL senders are taken", facts.max_wal_senders), "raise max_wal_senders");
    }
    if facts.max_slot_wal_keep_mb < 0 && !allow_unbounded_slot {
        return no(
            "max_slot_wal_keep_size is unlimited: if the stream stops, WAL fills the server's disk".into(),
            "set max_slot_wal_keep_size (e.g. '20GB') and reload, or allow_unbounded_slot = true in lifeboat.toml",
        );
    }
    Ok(advice(facts, place))
}

fn advice(facts: &ServerFacts, place: &str) -> Vec<Finding> {
    let mut list = Vec::new();
    if !facts.data_checksums {
        list.push(Finding {
            level: crate::watch::Level::Notice,
            object: format!("server {place}"),
            what: "has no page checksums: damaged pages cannot be found while they are backed up".into(),
            next: "pg_checksums --enable, when the server can be stopped".into(),
        });
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> ServerFacts {
        ServerFacts {
            version: 150_018,
            wal_level: "replica".into(),
            full_page_writes: true,
            data_checksums: true,
            max_slot_wal_keep_mb: 1024,
            max_replication_slots: 10,
            slots_used: 0,
            max_wal_senders: 10,
            wal_senders_used: 0,
            segment_bytes: 16 << 20,
            in_recovery: false,
            slot: None,
            may_replicate: true,
        }
    }

    fn refusal(facts: &ServerFacts) -> String {
        judge(facts, "here", "lifeboat", false).expect_err("refused").cause
    }

    #[test]
    fn a_well_set_server_passes_without_a_word() {
        assert_eq!(judge(&good(), "here", "lifeboat", false), Ok(vec![]));
    }

    #[test]
    fn each_setting_that_could_lose_wal_is_refused_by_name() {
        assert!(refusal(&ServerFacts { wal_level: "minimal".into(), ..good() }).contains("wal_level"));
        assert!(refusal(&ServerFacts { full_page_writes: false, ..good() }).contains("full_page_writes"));
        assert!(refusal(&ServerFacts { max_slot_wal_keep_mb: -1, ..good() }).contains("max_slot_wal_keep_size"));
        assert!(refusal(&ServerFacts { slots_used: 10, ..good() }).contains("replication slots"));
        assert!(refusal(&ServerFacts { wal_senders_used: 10, ..good() }).contains("WAL senders"));
        assert!(refusal(&ServerFacts { version: 90_600, ..good() }).contains("PostgreSQL 9"));
        assert!(refusal(&ServerFacts { may_replicate: false, ..good() }).contains("replication"));
        let logical = SlotFacts { active: false, wal_status: "reserved".into(), physical: false };
        assert!(refusal(&ServerFacts { slot: Some(logical), ..good() }).contains("logical"));
    }

    #[test]
    fn an_unlimited_slot_is_taken_when_the_configuration_says_so() {
        let unlimited = ServerFacts { max_slot_wal_keep_mb: -1, ..good() };
        assert!(judge(&unlimited, "here", "lifeboat", true).is_ok());
    }
}
