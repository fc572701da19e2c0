//! `lifeboat key prove`: whether a custodian still has his key.

use std::path::PathBuf;

use serde_json::json;

use super::custody;
use crate::authority::custody::proof;
use crate::cli::context::Context;
use crate::cli::outcome::Report;
use crate::config::Role;
use crate::failure::{Failure, Kind};

/// Challenge a custodian to show that he still has his key; or check his answer
///
/// The challenge is an age file sealed to him alone. He runs `age -d -i HIS.key FILE` and sends back the line that it prints, which is good for
/// one proof. `lifeboat status` warns when a custodian has not proved his key for longer than [keys.custody] proof.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lifeboat key prove alice --out alice.challenge.age\n  \
    lifeboat key prove alice --answer alice.answer")]
pub struct Prove {
    /// A name of [keys.custody.custodians]
    pub custodian: String,
    /// Write a new challenge to this new file
    #[arg(long, value_name = "FILE", required_unless_present = "answer")]
    pub out: Option<PathBuf>,
    /// Check the answer in this file; - for stdin
    #[arg(long, value_name = "FILE", conflicts_with = "out")]
    pub answer: Option<PathBuf>,
}

/// An answer is one line; more than this is none.
const ANSWER_BYTES: u64 = 4096;

pub(super) async fn prove(args: &Prove, context: &Context) -> Result<Report, Failure> {
    let config = context.config()?;
    let stores = custody::needed(context, &config, Role::Writer).await?;
    let rule = custody::rule(custody::of_config(&config)?)?;
    let (who, lock, now) =
        (&args.custodian, config.keys.lock.max(custody::of_config(&config)?.proof), context.clock.now());
    if let Some(path) = &args.answer {
        let answer = read(path)?;
        proof::answer(&stores, &rule, who, &answer, lock, now).await?;
        return Ok(Report::new(json!({ "custodian": who, "proved": now }), format!("{who} has his key\n")));
    }
    let Some(path) = &args.out else {
        return Err(Failure::new(Kind::Usage, "key prove", "neither --out nor --answer", "give one of them"));
    };
    let challenge = proof::challenge(&stores, &rule, who, lock, now).await?;
    std::fs::File::create_new(path).and_then(|mut file| std::io::Write::write_all(&mut file, &challenge)).map_err(
        |error| Failure::new(Kind::Usage, path.display().to_string(), error.to_string(), "choose another place"),
    )?;
    let text = format!(
        "wrote {}\nSend it to {who}. He runs `age -d -i HIS.key {}` and sends back what it prints.\n",
        path.display(),
        path.file_name().unwrap_or_default().display()
    );
    Ok(Report::new(json!({ "custodian": who, "challenge": path }), text))
}

fn read(path: &std::path::Path) -> Result<String, Failure> {
    use std::io::Read as _;
    let from = |mut source: Box<dyn std::io::Read>| {
        let mut text = String::new();
        source.as_mut().take(ANSWER_BYTES).read_to_string(&mut text).map(|_| text)
    };
    let read = match path.as_os_str() == "-" {
        true => from(Box::new(std::io::stdin())),
        false => std::fs::File::open(path).and_then(|file| from(Box::new(file))),
    };
    read.map_err(|error| Failure::new(Kind::Usage, path.display().to_string(), error.to_string(), "check the file"))
}
