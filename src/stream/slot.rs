//! Our replication slot: nobody else's, whole, or made anew.
//!
//! States of a slot: *absent* (the first start, or somebody dropped it), *held* (a stream reads it; a killed one's
//! sender is noticed by the server within moments), *free*, and *lost* (`wal_status`: the server has removed WAL that it still
//! needed, and it never comes back). A lost slot is replaced, but only after the gap that this makes has been judged.

use std::time::{Duration, Instant};

use sqlx::PgConnection;

use crate::failure::{Failure, Kind};
use crate::ids::Lsn;
use crate::postgres::connect::Server;
use crate::postgres::sql;
use crate::watch::{Watch, note};

/// A killed stream's slot is free after this long at the latest, where the server sees at once that its peer is gone.
pub const PATIENCE: Duration = Duration::from_secs(5);
const ASK_EVERY: Duration = Duration::from_millis(200);

/// Waits until nobody reads the slot; one that does not exist is free. Without `patience` it waits for ever, and says so once.
///
/// # Errors
/// `Refused`, with who holds it, when it is held for longer than `patience`; of the server.
pub async fn wait_until_free(
    server: &Server,
    name: &str,
    patience: Option<Duration>,
    watch: &dyn Watch,
) -> Result<(), Failure> {
    let began = Instant::now();
    let what = format!("slot {name} on {}", server.place());
    let asked = format!(
        "SELECT active_pid::text, coalesce(nullif(application_name, ''), 'a program without a name'), \
         coalesce(client_addr::text, 'this host') \
         FROM pg_replication_slots LEFT JOIN pg_stat_replication ON pid = active_pid WHERE active AND slot_name = {}",
        sql::quoted_text(name)
    );
    let mut connection = sql::connect(server, &server.database).await?;
    let mut said = false;
    loop {
        let rows = sql::text_rows(&mut connection, &what, &asked).await?;
        let Some(row) = rows.into_iter().next() else { return Ok(()) };
        let text = |index: usize| row.get(index).cloned().flatten().unwrap_or_default();
        let cause = format!("another stream is using it: {} on {}, server process {}", text(1), text(2), text(0));
        if patience.is_some_and(|patience| began.elapsed() > patience) {
            let next = "one stream is enough; stop the other one to run this one";
            return Err(Failure::new(Kind::Refused, what, cause, next));
        }
        if began.elapsed() > PATIENCE && !std::mem::replace(&mut said, true) {
            note(watch, &*what, format!("{cause}; this one goes on when it ends"));
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Where a slot made now would begin: at the redo position of the last checkpoint (`ReplicationSlotReserveWal`).
///
/// # Errors
/// Of the server.
pub async fn would_begin(connection: &mut PgConnection) -> Result<Lsn, Failure> {
    let what = "the last checkpoint";
    let text = sql::value(connection, what, "SELECT redo_lsn::text FROM pg_catalog.pg_control_checkpoint()").await?;
    text.parse().map_err(|_| sql::SqlError::Answer { what: what.to_owned(), wanted: "position" }.into())
}

/// Drops a slot.
///
/// # Errors
/// Of the server.
pub async fn remove(connection: &mut PgConnection, name: &str) -> Result<(), Failure> {
    let statement = format!("SELECT pg_catalog.pg_drop_replication_slot({})", sql::quoted_text(name));
    Ok(sql::execute(connection, &format!("replication slot {name}"), &statement).await?)
}
