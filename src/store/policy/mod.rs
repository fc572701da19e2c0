//! The least bucket policy of each role: what `lifeboat init --print-policies` prints, as values.
//!
//! A role's policy is two halves. What it **may** ([`rights`]) is the list of requests that its commands make, on the
//! names they make them on. What **nobody** may is denied by name, so that another policy attached to the same
//! credential cannot add it: lifting a governance lock, delete markers, the bucket's policy, versioning, lifecycle and
//! lock configuration.
//!
//! Two dialects (`Dialect`): AWS gets one identity policy per role and a bucket policy of denials; Ceph gets one bucket
//! policy in which every role is a user. RGW knows no condition on a lock (seen: 16 to 20), so that its writer's locks
//! have no upper bound; AWS' have.
//!
//! Not here: locks. They hold against all of these credentials together, and against whoever hands them out; a policy
//! bounds what a stolen credential can read, add and tidy away.

use serde_json::{Map, Value, json};

use crate::ids::{Role, Scope};

mod rights;
mod statement;
#[cfg(test)]
mod tests;

use statement::Statement;

/// The place that the policies are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ground {
    pub bucket: String,
    /// Put before every object's name, without a slash at its ends; empty for none.
    pub prefix: String,
    /// The longest lock that anybody may set or extend to, in days, rounded up.
    pub longest_lock_days: u64,
    pub holds: Holds,
}

/// What is kept there: a role needs other rights where keys are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    Backups,
    /// A keys store: sealed keys with rolling locks.
    Keys,
}

/// Whom a reader is confined to: a tenant, with the cluster part that a restore of it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confined {
    pub tenant: String,
    pub cluster: String,
}

/// Whose policy language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Aws,
    Ceph,
}

/// A policy to write: a role, confined to a tenant or not (readers only).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub role: Role,
    pub confined: Option<Confined>,
}

impl Grant {
    #[must_use]
    pub fn of(role: Role) -> Self {
        Self { role, confined: None }
    }

    /// What the grant is called; with `lifeboat-` before it, its user in Ceph.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.confined {
            None => self.role.name().to_owned(),
            Some(confined) => format!("{}-{}", self.role.name(), confined.tenant),
        }
    }
}

impl Ground {
    fn bucket_arn(&self) -> String {
        format!("arn:aws:s3:::{}", self.bucket)
    }

    /// The object resources for `pattern`, in which `*` stands for anything, slashes included.
    fn objects(&self, pattern: &str) -> String {
        format!("{}/{}", self.bucket_arn(), self.key(pattern))
    }

    fn key(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) }
    }
}

/// The user that a grant is for, in Ceph.
#[must_use]
pub fn ceph_user(grant: &Grant) -> String {
    format!("lifeboat-{}", grant.name())
}

/// What a role may and may not do there.
fn statements(grant: &Grant, ground: &Ground, dialect: Dialect) -> Vec<Statement> {
    let mut all = match ground.holds {
        Holds::Backups => rights::allowed(grant, ground),
        Holds::Keys => rights::allowed_with_keys(grant, ground),
    };
    all.push(rights::never(&all, ground));
    if (grant.role, ground.holds) == (Role::Writer, Holds::Backups) {
        all.push(rights::unread(ground));
    }
    // In a keys store the verifier rolls locks on.
    let locks = grant.role == Role::Writer || (grant.role, ground.holds) == (Role::Verifier, Holds::Keys);
    if locks && dialect == Dialect::Aws {
        all.extend(rights::bounded_locks(ground));
    }
    all
}

/// Everything to be applied for `grants`, as one object.
#[must_use]
pub fn printed(dialect: Dialect, grants: &[Grant], ground: &Ground) -> Value {
    match dialect {
        Dialect::Aws => aws(grants, ground),
        Dialect::Ceph => ceph(grants, ground),
    }
}

fn aws(grants: &[Grant], ground: &Ground) -> Value {
    let each = grants.iter().map(|grant| {
        let list = statements(grant, ground, Dialect::Aws);
        (grant.name(), document(list.iter().map(|statement| statement.value(None)).collect()))
    });
    let identities: Map<String, Value> = each.collect();
    let everybody = json!("*");
    let denied = rights::nobody(ground).value(Some(&everybody));
    json!({ "identity_policies": identities, "bucket_policy": document(vec![denied]), "object_lock": object_lock() })
}

fn ceph(grants: &[Grant], ground: &Ground) -> Value {
    let (mut list, mut users) = (Vec::new(), Map::new());
    for grant in grants {
        let user = ceph_user(grant);
        let principal = json!({ "AWS": [format!("arn:aws:iam:::user/{user}")] });
        let of_user = statements(grant, ground, Dialect::Ceph);
        list.extend(of_user.iter().map(|statement| {
            let mut value = statement.value(Some(&principal));
            value["Sid"] = json!(format!("{}{}", camel(&grant.name()), statement.sid));
            value
        }));
        users.insert(grant.name(), json!(user));
    }
    json!({ "users": users, "bucket_policy": document(list), "object_lock": object_lock() })
}

fn document(statements: Vec<Value>) -> Value {
    json!({ "Version": "2012-10-17", "Statement": statements })
}

/// The bucket's default, for `PutObjectLockConfiguration`: what arrives without a lock of its own, by whatever mistake, is
/// locked for a day.
fn object_lock() -> Value {
    json!({
        "ObjectLockEnabled": "Enabled",
        "Rule": { "DefaultRetention": { "Mode": "COMPLIANCE", "Days": 1 } },
    })
}

/// `key-eraser` as `KeyEraser`: a Sid has letters and digits only (IAM JSON policy grammar).
fn camel(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric());
    words
        .map(|word| {
            let (first, rest) = word.split_at(word.len().min(1));
            first.to_ascii_uppercase() + rest
        })
        .collect()
}

/// The names that a tenant's restore reads, as patterns below the prefix.
fn confined_patterns(confined: &Confined) -> Vec<String> {
    let scope = |scope: Scope| format!("{scope}/*");
    vec![
        scope(Scope::Tenant(confined.tenant.clone())),
        scope(Scope::Cluster(confined.cluster.clone())),
        "wal/*".to_owned(),
        "estate/*".to_owned(),
    ]
}
