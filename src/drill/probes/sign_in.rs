//! A real sign-in to a real Odoo over the restored database: a canary's login and password, from outside the sandbox.
//!
//! By RPC and through the login form, with a wrong password refused in between; then one attachment is read through that
//! session's rights and its SHA-1 compared. Without a configured Odoo nothing is asked, and nothing is claimed.

use serde_json::{Value, json};
use sha1::Digest as _;
use sqlx::PgConnection;
use zeroize::Zeroizing;

use crate::drill::http::{Http, HttpError, result_of};
use crate::drill::probe::{Grade, Kind, Layer, Seen};
use crate::drill::verdict::Verdict;
use crate::failure::{Failure, chain};
use crate::postgres::sql;

pub const START: Kind = Kind { id: "odoo.start", layer: Layer::Odoo, grade: Grade::E2 };
pub const RPC: Kind = Kind { id: "odoo.sign_in", layer: Layer::Odoo, grade: Grade::AReal };
pub const FORM: Kind = Kind { id: "odoo.sign_in_form", layer: Layer::Odoo, grade: Grade::AReal };
pub const WRONG: Kind = Kind { id: "odoo.wrong_password", layer: Layer::Odoo, grade: Grade::AReal };
pub const ATTACHMENT: Kind = Kind { id: "odoo.attachment", layer: Layer::Odoo, grade: Grade::E2 };

/// A canary: who, and the password for as long as it is needed.
pub struct Canary<'a> {
    pub database: &'a str,
    pub login: &'a str,
    pub password: Zeroizing<String>,
}

/// Signs in by RPC, as the user that the form said.
pub async fn by_rpc(http: Http<'_>, canary: &Canary<'_>, form: &Result<Form, HttpError>) -> Seen {
    judge_rpc(&authenticate(http, canary, &canary.password).await, form)
}

/// A password that is not the canary's must be refused.
pub async fn with_wrong_password(http: Http<'_>, canary: &Canary<'_>) -> Seen {
    let wrong = Zeroizing::new(format!("{}-not", canary.password.as_str()));
    judge_wrong(authenticate(http, canary, &wrong).await)
}

async fn authenticate(http: Http<'_>, canary: &Canary<'_>, password: &str) -> Result<Value, HttpError> {
    http.rpc("common", "authenticate", json!([canary.database, canary.login, password, {}])).await
}

fn judge_rpc(answer: &Result<Value, HttpError>, form: &Result<Form, HttpError>) -> Seen {
    match (answer.as_ref().map(Value::as_i64), form) {
        (Ok(Some(uid)), Ok(Form::In(who))) if uid != *who => {
            Seen::failed(Verdict::Exposed, "RPC and the login form take the canary for two different users")
        }
        (Ok(Some(_)), _) => Seen::passed("a canary signed in with its real password, over RPC"),
        // Odoo takes no password on RPC from a user with a second factor.
        (Ok(None), Ok(Form::AsksForSecondFactor)) => {
            Seen::missing("the canary has a second factor: no password on RPC")
        }
        (Ok(None), _) => Seen::failed(Verdict::LockedOut, "Odoo runs and refuses the canary's password, over RPC"),
        (Err(error), _) => {
            let detail = format!("Odoo gave no answer to the sign-in: {}", chain(error));
            Seen::failed(Verdict::Inconclusive, detail)
        }
    }
}

fn judge_wrong(answer: Result<Value, HttpError>) -> Seen {
    match answer {
        Ok(Value::Bool(false)) | Err(HttpError::Fault(_)) => Seen::passed("a wrong password was refused"),
        Ok(Value::Number(_)) => Seen::failed(Verdict::Exposed, "Odoo let the canary in with a wrong password"),
        Ok(_) => Seen::failed(Verdict::Inconclusive, "Odoo's answer to a wrong password means nothing"),
        Err(error) => Seen::failed(Verdict::Inconclusive, format!("no answer to a wrong password: {}", chain(&error))),
    }
}

/// What the login form did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// The session is this user's.
    In(i64),
    AsksForSecondFactor,
    Refused,
}

/// Signs in as a browser does: the form with its token, then who the session says that one is.
///
/// # Errors
/// When Odoo gives no proper answer.
pub async fn fill_form(http: Http<'_>, canary: &Canary<'_>) -> Result<Form, HttpError> {
    let page = http.get("/web/login", None).await?;
    let text = String::from_utf8_lossy(&page.body).into_owned();
    let token = token_in(&text).ok_or(HttpError::Fault("the login page has no form".to_owned()))?;
    let before = session(&page.cookies).unwrap_or_default();
    let fields =
        [("csrf_token", token), ("login", canary.login), ("password", canary.password.as_str()), ("redirect", "")];
    let answer = http.form("/web/login", Some(&before), &fields).await?;
    if answer.status != 303 {
        return Ok(Form::Refused);
    }
    if answer.location.as_deref().unwrap_or_default().contains("/web/login/totp") {
        return Ok(Form::AsksForSecondFactor);
    }
    let after = session(&answer.cookies).unwrap_or(before);
    let ask = json!({ "jsonrpc": "2.0", "method": "call", "params": {} });
    let info = result_of(&http.json("/web/session/get_session_info", Some(&after), &ask).await?)?;
    Ok(info.get("uid").and_then(Value::as_i64).map_or(Form::Refused, Form::In))
}

/// The form's token (`name="csrf_token" value="..."`).
fn token_in(page: &str) -> Option<&str> {
    let after = page.split_once("name=\"csrf_token\"")?.1;
    let value = after.split_once("value=\"")?.1;
    value.split_once('"').map(|(token, _)| token)
}

fn session(cookies: &[String]) -> Option<String> {
    cookies.iter().find(|cookie| cookie.starts_with("session_id=")).cloned()
}

#[must_use]
pub fn judge_form(form: &Result<Form, HttpError>) -> Seen {
    match form {
        Ok(Form::In(_)) => Seen::passed("a canary signed in through the login form, and has a session"),
        Ok(Form::AsksForSecondFactor) => {
            let detail = "Odoo asks the canary for a second factor, which a drill does not hold: use one without";
            Seen::failed(Verdict::Inconclusive, detail)
        }
        Ok(Form::Refused) => Seen::failed(Verdict::LockedOut, "the login form refuses the canary's password"),
        Err(error) => Seen::failed(Verdict::Inconclusive, format!("the login form does not work: {}", chain(error))),
    }
}

/// The largest attachment that is asked for.
const MOST_BYTES: u32 = 1_000_000;

/// An attachment as Odoo gave it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    pub id: i64,
    pub sha1: String,
    pub bytes: usize,
}

/// Reads one attachment with the canary's rights, and compares it with what the database says its file is.
///
/// # Errors
/// When the database does not answer.
pub async fn attachment(
    http: Http<'_>,
    canary: &Canary<'_>,
    uid: i64,
    connection: &mut PgConnection,
) -> Result<Seen, Failure> {
    // The smallest first. Fields of records (images) are asked for by name, or Odoo leaves them out.
    let wanted = json!([
        ["type", "=", "binary"],
        ["file_size", ">", 0],
        ["file_size", "<", MOST_BYTES],
        "|",
        ["res_field", "=", false],
        ["res_field", "!=", false]
    ]);
    let options = json!({ "limit": 1, "order": "id", "fields": ["datas"] });
    let args =
        json!([canary.database, uid, canary.password.as_str(), "ir.attachment", "search_read", [wanted], options]);
    let rows = match http.rpc("object", "execute_kw", args).await {
        Ok(rows) => rows,
        Err(error) => return Ok(judge_unread(&error)),
    };
    let Some(given) = given(&rows) else {
        return Ok(Seen::not_asked("the canary may not see any attachment"));
    };
    let names = format!("SELECT store_fname::text FROM ONLY public.ir_attachment WHERE id = {}", given.id);
    let names = sql::text_rows(connection, "the attachment's row", &names).await?;
    Ok(judge_attachment(&given, names.into_iter().flatten().flatten().next().as_deref()))
}

fn given(rows: &Value) -> Option<Given> {
    let row = rows.as_array()?.first()?;
    let content = unbase64(row.get("datas")?.as_str()?)?;
    let sha1 = hex::encode(sha1::Sha1::digest(&content));
    Some(Given { id: row.get("id")?.as_i64()?, sha1, bytes: content.len() })
}

/// Base64 (RFC 4648, section 4); line ends, which Odoo may put in, are skipped.
fn unbase64(text: &str) -> Option<Vec<u8>> {
    let (mut out, mut bits, mut have) = (Vec::with_capacity(text.len() / 4 * 3), 0_u32, 0_u32);
    for byte in text.bytes().filter(|byte| !byte.is_ascii_whitespace() && *byte != b'=') {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        (bits, have) = (bits << 6 | u32::from(six), have + 6);
        if have >= 8 {
            have -= 8;
            out.push(u8::try_from(bits >> have & 0xFF).ok()?);
        }
    }
    Some(out)
}

fn judge_unread(error: &HttpError) -> Seen {
    match error {
        HttpError::Fault(_) => Seen::not_asked(format!("the canary may not read attachments: {error}")),
        error => Seen::failed(Verdict::Inconclusive, format!("no attachment could be read: {}", chain(error))),
    }
}

fn judge_attachment(given: &Given, store_fname: Option<&str>) -> Seen {
    let facts = json!({ "id": given.id, "bytes": given.bytes, "sha1": given.sha1 });
    let seen = match store_fname.and_then(|name| name.rsplit('/').next()) {
        Some(sum) if sum == given.sha1 => {
            Seen::passed(format!("the canary read an attachment of {} bytes, and its SHA-1 is right", given.bytes))
        }
        Some(_) => Seen::failed(Verdict::Invalid, "an attachment that Odoo gives out is not what its name says"),
        None => Seen::passed(format!("the canary read an attachment of {} bytes, kept in the database", given.bytes)),
    };
    seen.with(facts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::probe::Outcome;

    #[test]
    fn a_refused_canary_locks_out_and_silence_proves_nothing() {
        let inside = Ok(Form::In(2));
        assert_eq!(judge_rpc(&Ok(json!(2)), &inside).outcome, Outcome::Passed);
        assert_eq!(judge_rpc(&Ok(json!(3)), &inside).gate, Some(Verdict::Exposed));
        assert_eq!(judge_rpc(&Ok(json!(false)), &inside).gate, Some(Verdict::LockedOut));
        let asks = judge_rpc(&Ok(json!(false)), &Ok(Form::AsksForSecondFactor));
        assert_eq!((asks.outcome, asks.gate), (Outcome::NotAsked, Some(Verdict::Inconclusive)));
        assert_eq!(judge_rpc(&Err(HttpError::NotRpc), &inside).gate, Some(Verdict::Inconclusive));
    }

    #[test]
    fn a_wrong_password_that_works_exposes() {
        assert_eq!(judge_wrong(Ok(json!(false))).outcome, Outcome::Passed);
        assert_eq!(judge_wrong(Err(HttpError::Fault("Access Denied".into()))).outcome, Outcome::Passed);
        assert_eq!(judge_wrong(Ok(json!(2))).gate, Some(Verdict::Exposed));
        assert_eq!(judge_wrong(Err(HttpError::NotRpc)).gate, Some(Verdict::Inconclusive));
        assert_eq!(judge_wrong(Ok(json!("yes"))).gate, Some(Verdict::Inconclusive));
    }

    #[test]
    fn a_form_that_refuses_locks_out_and_one_that_breaks_proves_nothing() {
        assert_eq!(judge_form(&Ok(Form::In(2))).outcome, Outcome::Passed);
        assert_eq!(judge_form(&Ok(Form::Refused)).gate, Some(Verdict::LockedOut));
        assert_eq!(judge_form(&Ok(Form::AsksForSecondFactor)).gate, Some(Verdict::Inconclusive));
        assert_eq!(judge_form(&Err(HttpError::Body)).gate, Some(Verdict::Inconclusive));
    }

    #[test]
    fn an_attachment_with_another_content_invalidates() {
        let given = Given { id: 7, sha1: "aa".into(), bytes: 3 };
        assert_eq!(judge_attachment(&given, Some("aa/aa")).outcome, Outcome::Passed);
        assert_eq!(judge_attachment(&given, Some("bb/bb")).gate, Some(Verdict::Invalid));
    }

    #[test]
    fn the_answer_s_bytes_are_decoded_and_summed_here() {
        let rows = json!([{ "id": 7, "datas": "aGVs\nbG8=" }]);
        let sha1 = hex::encode(sha1::Sha1::digest(b"hello"));
        assert_eq!(given(&rows), Some(Given { id: 7, sha1, bytes: 5 }));
        assert_eq!(given(&json!([])), None);
        assert_eq!(given(&json!([{ "id": 7, "datas": "?" }])), None);
    }

    #[test]
    fn the_form_s_token_is_found() {
        assert_eq!(token_in("<input type=\"hidden\" name=\"csrf_token\" value=\"abc\"/>"), Some("abc"));
        assert_eq!(token_in("<p>maintenance</p>"), None);
    }
}
