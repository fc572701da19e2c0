//! HTTP to a port inside the sandbox, from outside. One request per connection; what comes back is hostile and bounded.
//!
//! The connection is the sandbox's ([`Sandbox::connect`]): no socket of the host's network is involved.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{CONTENT_TYPE, COOKIE, HOST, HeaderName, LOCATION, SET_COOKIE};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use crate::sandbox::Sandbox;

/// The largest answer that is read.
const MOST_BYTES: usize = 8 << 20;

#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("nothing answers on port {port}")]
    Connect {
        port: u16,
        #[source]
        source: crate::sandbox::SandboxError,
    },
    #[error("the answer is not HTTP")]
    Protocol(#[from] hyper::Error),
    #[error("the request cannot be written")]
    Request(#[from] hyper::http::Error),
    #[error("the answer ends early, or has more than {MOST_BYTES} bytes")]
    Body,
    #[error("no answer within {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the answer is not what Odoo's RPC gives")]
    NotRpc,
    /// The server's own words, shortened.
    #[error("Odoo says: {0}")]
    Fault(String),
}

/// An answer, as far as it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub location: Option<String>,
    /// `name=value` of the cookies it sets.
    pub cookies: Vec<String>,
    pub body: Bytes,
}

/// A server inside a sandbox.
#[derive(Debug, Clone, Copy)]
pub struct Http<'s> {
    pub sandbox: &'s Sandbox,
    pub port: u16,
    /// For one request; the first to a database loads all of Odoo's code.
    pub patience: Duration,
}

impl Http<'_> {
    /// # Errors
    /// When there is no proper answer.
    pub async fn get(&self, path: &str, cookie: Option<&str>) -> Result<Answer, HttpError> {
        self.send(Method::GET, path, cookie, None).await
    }

    /// Posts a form.
    ///
    /// # Errors
    /// When there is no proper answer.
    pub async fn form(&self, path: &str, cookie: Option<&str>, fields: &[(&str, &str)]) -> Result<Answer, HttpError> {
        let pairs: Vec<String> =
            fields.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
        let body = ("application/x-www-form-urlencoded", Bytes::from(pairs.join("&")));
        self.send(Method::POST, path, cookie, Some(body)).await
    }

    /// Posts JSON.
    ///
    /// # Errors
    /// When there is no proper answer.
    pub async fn json(&self, path: &str, cookie: Option<&str>, value: &Value) -> Result<Answer, HttpError> {
        let body = ("application/json", Bytes::from(value.to_string()));
        self.send(Method::POST, path, cookie, Some(body)).await
    }

    /// Calls Odoo's JSON-RPC (documentation, "External API"): `common.authenticate`, `object.execute_kw`.
    ///
    /// # Errors
    /// `Fault` with the server's message when it refuses the call.
    pub async fn rpc(&self, service: &str, method: &str, args: Value) -> Result<Value, HttpError> {
        let params = json!({ "service": service, "method": method, "args": args });
        let call = json!({ "jsonrpc": "2.0", "method": "call", "id": 1, "params": params });
        result_of(&self.json("/jsonrpc", None, &call).await?)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        cookie: Option<&str>,
        body: Option<(&str, Bytes)>,
    ) -> Result<Answer, HttpError> {
        let exchanged = tokio::time::timeout(self.patience, self.exchange(method, path, cookie, body)).await;
        exchanged.unwrap_or(Err(HttpError::Silent(self.patience)))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        cookie: Option<&str>,
        body: Option<(&str, Bytes)>,
    ) -> Result<Answer, HttpError> {
        let port = self.port;
        let connected = self.sandbox.connect(port).await;
        let stream = connected.map_err(|source| HttpError::Connect { port, source })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let carrying = tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(HOST, format!("127.0.0.1:{port}"));
        if let Some(cookie) = cookie {
            request = request.header(COOKIE, cookie);
        }
        let (kind, bytes) = body.unwrap_or_default();
        if !kind.is_empty() {
            request = request.header(CONTENT_TYPE, kind);
        }
        let response = sender.send_request(request.body(Full::new(bytes))?).await?;
        let (head, body) = response.into_parts();
        let text = |name: &HeaderName| -> Vec<String> {
            head.headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
        };
        let cookies = text(&SET_COOKIE).iter().filter_map(|line| line.split(';').next()).map(str::to_owned).collect();
        let body = Limited::new(body, MOST_BYTES).collect().await.map_err(|_| HttpError::Body)?.to_bytes();
        carrying.abort();
        Ok(Answer { status: head.status.as_u16(), location: text(&LOCATION).into_iter().next(), cookies, body })
    }
}

/// What a JSON-RPC answer carries.
///
/// # Errors
/// `Fault` for an error object, `NotRpc` for anything else.
pub fn result_of(answer: &Answer) -> Result<Value, HttpError> {
    let value: Value = serde_json::from_slice(&answer.body).map_err(|_| HttpError::NotRpc)?;
    if let Some(error) = value.get("error") {
        let message = error.pointer("/data/message").or_else(|| error.get("message")).and_then(Value::as_str);
        let words: Vec<&str> = message.unwrap_or("(no message)").split_whitespace().take(30).collect();
        return Err(HttpError::Fault(crate::sandbox::printable(words.join(" ").as_bytes())));
    }
    value.get("result").cloned().ok_or(HttpError::NotRpc)
}

/// Percent-encoding for forms (`application/x-www-form-urlencoded`, WHATWG URL).
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._*".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &str) -> Answer {
        Answer { status: 200, location: None, cookies: Vec::new(), body: Bytes::from(body.to_owned()) }
    }

    #[test]
    fn a_form_s_values_cannot_become_fields() {
        assert_eq!(encoded("a&b=c d+ä"), "a%26b%3Dc%20d%2B%C3%A4");
    }

    #[test]
    fn an_rpc_answer_is_a_result_a_fault_or_nothing_to_be_believed() {
        assert_eq!(result_of(&answer(r#"{"result": false}"#)).unwrap(), json!(false));
        let fault = r#"{"error": {"message": "Odoo Server Error", "data": {"message": "Access\u001b[2J denied"}}}"#;
        let error = result_of(&answer(fault)).unwrap_err().to_string();
        assert!(error.starts_with("Odoo says: Access") && !error.contains('\u{1b}'), "{error:?}");
        assert!(matches!(result_of(&answer("<html>")), Err(HttpError::NotRpc)));
        assert!(matches!(result_of(&answer("{}")), Err(HttpError::NotRpc)));
    }
}
