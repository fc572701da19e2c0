//! Whether a server action of the restored Odoo can reach the host: a webhook of ours, run with the canary's rights.
//!
//! The action (`ir.actions.server`, state `webhook`, Odoo 17 and later) is put into the restored copy beforehand, for the groups that the canary
//! has. Odoo sends it after the transaction; that it tried is read from its log, that nothing arrived is heard at the [`Ear`].

use serde_json::json;
use sqlx::PgConnection;

use super::sign_in::Canary;
use crate::drill::ear::Ear;
use crate::drill::odoo::Odoo;
use crate::drill::probe::{Grade, Kind, Layer, Seen};
use crate::drill::verdict::Verdict;
use crate::failure::{Failure, chain};
use crate::postgres::sql;

pub const KIND: Kind = Kind { id: "sandbox.server_action", layer: Layer::Sandbox, grade: Grade::E2 };

/// Puts the action into the restored copy; its id. `None` where this Odoo knows no webhooks.
///
/// # Errors
/// When the canary is not there.
pub async fn plant(connection: &mut PgConnection, login: &str, ear: &Ear) -> Result<Option<i64>, Failure> {
    let Some(address) = ear.tcp().into_iter().next() else { return Ok(None) };
    let url = sql::quoted_text(&format!("http://{address}/lifeboat-drill"));
    let statement = format!(
        "WITH a AS (INSERT INTO public.ir_act_server \
             (type, binding_type, name, model_id, usage, state, webhook_url, sequence) \
           SELECT 'ir.actions.server', 'action', '{{\"en_US\": \"lifeboat drill\"}}'::jsonb, id, \
             'ir_actions_server', 'webhook', {url}, 5 FROM public.ir_model WHERE model = 'res.partner' RETURNING id), \
         g AS (INSERT INTO public.ir_act_server_group_rel (act_id, gid) \
           SELECT a.id, r.gid FROM a, public.res_groups_users_rel r JOIN public.res_users u ON u.id = r.uid \
           WHERE u.login = {} RETURNING gid) \
         SELECT a.id::text FROM a",
        sql::quoted_text(login)
    );
    // An older Odoo has no such column.
    let Ok(id) = sql::value(connection, "a server action", &statement).await else { return Ok(None) };
    Ok(id.parse().ok())
}

/// Runs the action and listens.
pub async fn ask(odoo: &Odoo<'_>, canary: &Canary<'_>, uid: i64, action: Option<i64>, ear: &Ear) -> Seen {
    let Some(action) = action else { return Seen::not_asked("this Odoo has no webhook actions") };
    let _before = ear.heard();
    let context = json!({ "context": { "active_model": "res.partner", "active_id": 1, "active_ids": [1] } });
    let args = json!([canary.database, uid, canary.password.as_str(), "ir.actions.server", "run", [[action]], context]);
    let ran = odoo.http.rpc("object", "execute_kw", args).await;
    let said = match &ran {
        Ok(_) => String::new(),
        Err(error) => chain(error),
    };
    judge(&odoo.log(), &said, &ear.heard().iter().map(ToString::to_string).collect::<Vec<_>>())
}

fn judge(log: &str, said: &str, heard: &[String]) -> Seen {
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("Webhook call")).collect();
    let seen = if !heard.is_empty() || lines.iter().any(|line| line.contains("succeeded")) {
        Seen::failed(Verdict::Exposed, "a server action of the restored Odoo reached the host")
    } else if lines.iter().any(|line| line.contains("Webhook call failed")) {
        Seen::passed("a webhook action ran in Odoo, tried to reach the host, and did not")
    } else {
        let why = if said.is_empty() { "Odoo's log does not show that it tried" } else { said };
        Seen::not_asked(format!("no server action could be run with the canary's rights: {why}"))
    };
    let lines: Vec<String> = lines.iter().map(|line| crate::sandbox::printable(line.as_bytes())).collect();
    seen.with(json!({ "log": lines, "heard": heard }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::probe::Outcome;

    #[test]
    fn only_an_attempt_that_failed_passes() {
        let tried = "INFO Webhook call to http://127.0.0.1:5\nWARNING Webhook call failed: Connection refused";
        assert_eq!(judge(tried, "", &[]).outcome, Outcome::Passed);
        assert_eq!(judge("INFO Webhook call to http://127.0.0.1:5 - succeeded", "", &[]).gate, Some(Verdict::Exposed));
        assert_eq!(judge(tried, "", &["127.0.0.1:5".to_owned()]).gate, Some(Verdict::Exposed));
        assert_eq!(judge("", "Odoo says: no", &[]).outcome, Outcome::NotAsked);
        assert_eq!(judge("", "", &[]).outcome, Outcome::NotAsked);
    }
}
