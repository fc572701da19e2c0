//! `lifeboat key register-copy`: a scope's identity that somebody keeps elsewhere.

use std::path::PathBuf;

use serde_json::json;

use super::custody;
use crate::authority::copies::{self, Copy};
use crate::cli::context::Context;
use crate::cli::outcome::Report;
use crate::config::Role;
use crate::failure::{Failure, Kind};
use crate::ids::{Scope, is_plain_name};

/// Register a copy of a scope's key that somebody keeps outside the keys stores
///
/// An erasure of the scope is complete only when every registered copy is confirmed gone: by its holder's signature, or by lifeboat where
/// it lies.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lifeboat key register-copy tenant/acme --name safe --holder bank --signer carol.pub")]
pub struct RegisterCopy {
    pub scope: Scope,
    /// A plain name for the copy
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// Who has it, and where; for people
    #[arg(long, value_name = "TEXT")]
    pub holder: String,
    /// The holder's SSH public key, with which he will confirm that it is gone
    #[arg(long, value_name = "FILE")]
    pub signer: Option<PathBuf>,
}

pub(super) async fn register(args: &RegisterCopy, context: &Context) -> Result<Report, Failure> {
    let config = context.config()?;
    if !is_plain_name(&args.name) {
        let next = "a-z, 0-9, '-' and '_', at most 63, a letter or digit first";
        return Err(Failure::new(Kind::Usage, "--name", format!("'{}' is not a plain name", args.name), next));
    }
    let key = args.signer.as_deref().map(|path| {
        let wrong = |cause: String| {
            Failure::new(Kind::Usage, path.display().to_string(), cause, "give an OpenSSH public key (id_ed25519.pub)")
        };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        ssh_key::PublicKey::from_openssh(text.trim()).map_err(|error| wrong(error.to_string()))?;
        Ok::<_, Failure>(text.trim().to_owned())
    });
    let stores = custody::needed(context, &config, Role::Writer).await?;
    let copy =
        Copy::new(args.scope.clone(), args.name.clone(), args.holder.clone(), key.transpose()?, context.clock.now());
    copies::register(&stores, &copy, config.keys.lock).await?;
    let text = format!("registered '{}' of {}: {}\n", copy.name, copy.scope, copy.holder);
    Ok(Report::new(json!({ "scope": copy.scope, "copy": copy.name }), text))
}
