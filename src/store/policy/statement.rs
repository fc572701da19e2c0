//! One statement of a policy (IAM User Guide, "Grammar of the IAM JSON policy language").

use serde_json::{Value, json};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Allow,
    Deny,
}

#[derive(Debug, Clone)]
pub(super) struct Statement {
    pub sid: &'static str,
    pub effect: Effect,
    pub actions: Vec<&'static str>,
    pub resources: Vec<String>,
    /// The statement is about everything **but** `resources`.
    pub all_but: bool,
    /// `{operator: {key: values}}`.
    pub condition: Option<Value>,
}

impl Statement {
    /// As it stands in a policy; a bucket's names a principal, an identity's has none.
    pub fn value(&self, principal: Option<&Value>) -> Value {
        let effect = match self.effect {
            Effect::Allow => "Allow",
            Effect::Deny => "Deny",
        };
        let actions: Vec<String> = self.actions.iter().map(|action| format!("s3:{action}")).collect();
        let mut value = json!({ "Sid": self.sid, "Effect": effect, "Action": actions });
        value[if self.all_but { "NotResource" } else { "Resource" }] = json!(self.resources);
        if let Some(principal) = principal {
            value["Principal"] = principal.clone();
        }
        if let Some(condition) = &self.condition {
            value["Condition"] = condition.clone();
        }
        value
    }
}
