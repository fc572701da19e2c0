//! What a recovered database holds that could act on others, and whether it may come along. The judgement is pure.
//!
//! Extensions come by allow-list, made anew by the administrator. Event triggers, untrusted languages, foreign servers and
//! subscriptions never come: they run as somebody else or reach out. A restore that meets one stops, unless the tenant's
//! `allow` names it: then it goes on without it, and says so.

use sqlx::PgConnection;

use crate::failure::{Failure, Kind};
use crate::postgres::sql;

/// Extensions that every estate may have: what Odoo uses, and contrib modules that neither reach out nor read files.
const EXTENSIONS: [&str; 12] = [
    "plpgsql",
    "pg_trgm",
    "unaccent",
    "btree_gin",
    "btree_gist",
    "citext",
    "cube",
    "earthdistance",
    "fuzzystrmatch",
    "hstore",
    "pgcrypto",
    "uuid-ossp",
];

/// An extension as it is in the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    pub name: String,
    pub schema: String,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    pub owner: String,
    pub encoding: String,
    pub collate: String,
    pub ctype: String,
    pub extensions: Vec<Extension>,
    /// Whether `unaccent(text)` was made immutable, as Odoo's indexes need.
    pub immutable_unaccent: Option<String>,
    /// `event-trigger:NAME`, `language:NAME`, `server:NAME`, `subscription:NAME`.
    pub risky: Vec<String>,
    pub publications: Vec<String>,
    /// Roles besides the owner that have rights on something in it.
    pub grantees: Vec<String>,
}

/// What comes, and what does not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    pub extensions: Vec<Extension>,
    pub left_out: Vec<String>,
}

const DATABASE: &str = "SELECT pg_get_userbyid(datdba)::text, pg_encoding_to_char(encoding)::text, datcollate::text, \
    datctype::text FROM pg_database WHERE datname = current_database()";

const EXTENSIONS_QUERY: &str = "SELECT extname::text, nspname::text FROM pg_extension e \
    JOIN pg_namespace n ON n.oid = e.extnamespace ORDER BY 1";

const UNACCENT: &str = "SELECT quote_ident(n.nspname) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace \
    JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e' \
    WHERE p.proname = 'unaccent' AND p.provolatile = 'i' AND pg_get_function_identity_arguments(p.oid) = 'text'";

const RISKY: &str = "SELECT 'event-trigger:' || evtname FROM pg_event_trigger \
    UNION ALL SELECT 'language:' || lanname FROM pg_language WHERE NOT lanpltrusted AND oid >= 16384 \
    UNION ALL SELECT 'server:' || srvname FROM pg_foreign_server \
    UNION ALL SELECT 'subscription:' || subname FROM pg_subscription \
        WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1";

const PUBLICATIONS: &str = "SELECT pubname::text FROM pg_publication ORDER BY 1";

const GRANTEES: &str = "SELECT DISTINCT pg_get_userbyid(grantee)::text FROM ( \
        SELECT (aclexplode(relacl)).grantee FROM pg_class UNION SELECT (aclexplode(proacl)).grantee FROM pg_proc \
        UNION SELECT (aclexplode(nspacl)).grantee FROM pg_namespace UNION SELECT (aclexplode(typacl)).grantee FROM pg_type \
        UNION SELECT (aclexplode(attacl)).grantee FROM pg_attribute UNION SELECT (aclexplode(defaclacl)).grantee FROM pg_default_acl \
    ) AS rights WHERE grantee >= 16384 AND grantee <> (SELECT datdba FROM pg_database WHERE datname = current_database()) ORDER BY 1";

/// Reads the catalogs of the database that `connection` is connected to.
///
/// # Errors
/// Of the server.
pub async fn read(connection: &mut PgConnection) -> Result<Contents, Failure> {
    let database = sql::text_rows(connection, "the recovered database", DATABASE).await?;
    let text = |index: usize| database.first().and_then(|row| row.get(index).cloned().flatten()).unwrap_or_default();
    let (owner, encoding, collate, ctype) = (text(0), text(1), text(2), text(3));
    let extensions = sql::text_rows(connection, "extensions", EXTENSIONS_QUERY).await?;
    let extensions = extensions.into_iter().filter_map(|row| match <[_; 2]>::try_from(row) {
        Ok([Some(name), Some(schema)]) => Some(Extension { name, schema }),
        _ => None,
    });
    Ok(Contents {
        owner,
        encoding,
        collate,
        ctype,
        extensions: extensions.collect(),
        immutable_unaccent: names(connection, "unaccent", UNACCENT).await?.into_iter().next(),
        risky: names(connection, "event triggers, languages and servers", RISKY).await?,
        publications: names(connection, "publications", PUBLICATIONS).await?,
        grantees: names(connection, "rights", GRANTEES).await?,
    })
}

async fn names(connection: &mut PgConnection, what: &str, query: &str) -> Result<Vec<String>, Failure> {
    Ok(sql::text_rows(connection, what, query).await?.into_iter().flatten().flatten().collect())
}

/// Decides what comes.
///
/// # Errors
/// `Refused`, with everything that is not allowed, and the line that would allow it.
pub fn judge(contents: &Contents, allowed_extensions: &[String], allow: &[String]) -> Result<Verdict, Failure> {
    let known = |name: &str| EXTENSIONS.contains(&name) || allowed_extensions.iter().any(|allowed| allowed == name);
    let (good, strange): (Vec<_>, Vec<_>) = contents.extensions.iter().cloned().partition(|e| known(&e.name));
    let (named, refused): (Vec<_>, Vec<_>) = contents.risky.iter().cloned().partition(|risky| allow.contains(risky));
    if !strange.is_empty() || !refused.is_empty() {
        let mut all: Vec<String> = strange.iter().map(|extension| format!("extension {}", extension.name)).collect();
        all.extend(refused.iter().cloned());
        let mut lines = Vec::new();
        if !strange.is_empty() {
            let list: Vec<String> = strange.iter().map(|extension| format!("{:?}", extension.name)).collect();
            lines.push(format!("allow_extensions = [{}]", list.join(", ")));
        }
        if !refused.is_empty() {
            let list: Vec<String> = refused.iter().map(|risky| format!("{risky:?}")).collect();
            lines.push(format!("allow = [{}] (goes on without them)", list.join(", ")));
        }
        return Err(Failure::new(
            Kind::Refused,
            "recovered database",
            format!("holds what is not loaded into a cluster: {}", all.join(", ")),
            format!("if you know them, add to the tenant in lifeboat.toml: {}", lines.join("; ")),
        ));
    }
    let mut left_out = named;
    left_out.extend(contents.publications.iter().map(|name| format!("publication:{name}")));
    left_out.extend(contents.grantees.iter().map(|name| format!("the rights of role {name}")));
    Ok(Verdict { extensions: good, left_out })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(extensions: &[&str], risky: &[&str]) -> Contents {
        let extension = |name: &&str| Extension { name: (*name).into(), schema: "public".into() };
        Contents {
            extensions: extensions.iter().map(extension).collect(),
            risky: risky.iter().map(ToString::to_string).collect(),
            ..Contents::default()
        }
    }

    #[test]
    fn what_odoo_uses_comes_without_a_word() {
        let verdict = judge(&contents(&["plpgsql", "pg_trgm", "unaccent"], &[]), &[], &[]).expect("allowed");
        assert_eq!((verdict.extensions.len(), verdict.left_out.len()), (3, 0));
    }

    #[test]
    fn everything_that_is_not_allowed_is_named_at_once_with_the_line_that_would_allow_it() {
        let refused = judge(&contents(&["dblink", "postgis"], &["event-trigger:evil", "server:out"]), &[], &[]);
        let failure = refused.expect_err("refused");
        assert_eq!(failure.kind, Kind::Refused);
        for name in ["dblink", "postgis", "event-trigger:evil", "server:out"] {
            assert!(failure.cause.contains(name), "{}", failure.cause);
        }
        assert!(failure.next.contains("allow_extensions = [\"dblink\", \"postgis\"]"), "{}", failure.next);
    }

    #[test]
    fn an_exception_by_name_goes_on_without_it_and_says_so() {
        let allow = vec!["event-trigger:evil".to_owned()];
        let verdict = judge(&contents(&[], &["event-trigger:evil"]), &[], &allow).expect("allowed");
        assert_eq!(verdict.left_out, ["event-trigger:evil"]);
        assert!(judge(&contents(&[], &["event-trigger:evil", "event-trigger:other"]), &[], &allow).is_err());
    }
}
