//! `dead-letters`: lists events that could not be processed, and redrives or deletes them.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use common::{
    bus::{
        dead_letters::{
            self, DeadLetter, Which,
            acts::{self, Act, Operator},
        },
        shown,
    },
    pod::secret::Secret,
};
use sqlx::PgConnection;
use time::format_description::well_known::Rfc3339;
use tokio::time::{Instant, sleep};

use crate::{
    out::say,
    running::{self, DataDir},
};

/// The most dead letters listed.
const LISTED: i64 = 1000;
/// How long a redrive waits for a member to retry, and how often it checks.
const REDRIVE_WAIT: Duration = Duration::from_secs(5);
const CHECK_EVERY: Duration = Duration::from_millis(100);

/// Which dead letters, and what to do with them.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,

    /// The service whose dead letters to use, in the running system.
    #[arg(long, value_name = "SERVICE", default_value = "orders", global = true)]
    service: String,

    /// The service's database, if `up` did not start it.
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true, global = true)]
    database_url: Option<Secret>,

    #[command(flatten)]
    data: DataDir,
}

#[derive(Debug, Clone, Subcommand)]
enum What {
    /// Lists dead letters, one per line, oldest first.
    List {
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Shows everything about a dead letter, including payload and headers.
    Show {
        /// The dead letter's number.
        number: i64,
    },
    /// Redelivers dead letters to the queue group in which they failed, and to no other.
    Redrive {
        /// A number, or `all`.
        which: Which,
    },
    /// Deletes dead letters permanently.
    Discard {
        /// A number, or `all`.
        which: Which,
        /// Confirms `discard all`.
        #[arg(long)]
        yes: bool,
    },
}

/// Runs the subcommand.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let url = options.data.database_url(&options.service, options.database_url.as_deref())?;
    let mut database = running::connect(&url).await.context("cannot use the database")?;
    match options.what {
        What::List { json } => list(&mut database, json).await,
        What::Show { number } => {
            let letter = dead_letters::show(&mut database, number).await?;
            let letter = letter.with_context(|| no_such(Which::One(number)))?;
            say!("{}", serde_json::to_string_pretty(&letter)?);
            Ok(())
        }
        What::Redrive { which } => redrive(&mut database, which).await,
        What::Discard { which: Which::All, yes: false } => {
            bail!("this deletes every dead letter permanently; add --yes to confirm")
        }
        What::Discard { which, .. } => {
            let discarded = acts::act_on(&mut database, Act::Discard, which, &operator()).await?;
            found(which, discarded)?;
            say!("Deleted {discarded}.");
            Ok(())
        }
    }
}

async fn list(database: &mut PgConnection, json: bool) -> anyhow::Result<()> {
    let letters = dead_letters::list(database, None, LISTED).await?;
    if json {
        say!("{}", serde_json::to_string_pretty(&letters)?);
        return Ok(());
    }
    if letters.is_empty() {
        say!("No dead letters.");
    }
    for letter in &letters {
        let DeadLetter { id, queue_group, subject, stream_sequence, attempts, reason, .. } = letter;
        let copies = match letter.copies {
            1 => String::new(),
            copies => {
                format!("{copies} copies, the last at {}  ", letter.last_at.format(&Rfc3339)?)
            }
        };
        let (subject, reason) = (shown(subject), shown(reason));
        let at = letter.dead_at.format(&Rfc3339)?;
        say!(
            "{id}  {at}  {queue_group}  {subject} #{stream_sequence}  {attempts} attempts  {copies}{reason}"
        );
    }
    if i64::try_from(letters.len())? == LISTED {
        say!("Only the oldest {LISTED} are shown.");
    }
    Ok(())
}

/// Redrives, and waits until a member has retried.
async fn redrive(database: &mut PgConnection, which: Which) -> anyhow::Result<()> {
    let redriven = acts::act_on(database, Act::Redrive, which, &operator()).await?;
    found(which, redriven)?;
    say!("Redriven: {redriven}.");
    let deadline = Instant::now() + REDRIVE_WAIT;
    loop {
        let mut left = dead_letters::list(database, None, LISTED).await?;
        left.retain(|letter| match which {
            Which::One(number) => letter.id == number,
            Which::All => true,
        });
        let waiting = left.iter().filter(|letter| letter.redrive_at.is_some()).count();
        let being_tried = left.iter().any(|letter| letter.reason == dead_letters::INTERRUPTED);
        if (waiting > 0 || being_tried) && Instant::now() < deadline {
            sleep(CHECK_EVERY).await;
            continue;
        }
        if waiting > 0 {
            say!(
                "{waiting} have not been retried yet: no member of the group is running, or it is busy."
            );
        }
        left.retain(|letter| letter.redrive_at.is_none());
        for letter in &left {
            say!("{} failed again: {}", letter.id, shown(&letter.reason));
        }
        if waiting + left.len() == 0 {
            say!("All took effect.");
        }
        return Ok(());
    }
}

/// The user who runs this command, for the audit record.
fn operator() -> Operator {
    let user = ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    let name = user.unwrap_or_else(|| format!("user {}", rustix::process::getuid().as_raw()));
    Operator { name, via: "ticketing dead-letters".to_owned() }
}

fn found(which: Which, how_many: i64) -> anyhow::Result<()> {
    match (which, how_many) {
        (Which::One(_), 0) => bail!(no_such(which)),
        _ => Ok(()),
    }
}

fn no_such(which: Which) -> String {
    format!("there is no dead letter {which}; `ticketing dead-letters list` shows what there is")
}
