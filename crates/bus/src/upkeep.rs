//! What a member looks after besides delivering: dead letters that were given back, old inbox rows,
//! and the gauges of both.

use std::{sync::Arc, time::Duration};

use sqlx::PgConnection;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, error};

use crate::{
    database_is_away,
    dead_letters::{self, Which},
    effect::{MemberContext, Redrive},
    inbox,
    listener::Listener,
};
use crate::{lease, shutdown::Shutdown};

/// How often dead letters are looked at for one that was given back.
const REDRIVE_POLL: Duration = Duration::from_secs(1);
/// How often the inbox forgets what is old, and how many rows a statement deletes: some tens of
/// milliseconds' work.
const PRUNE: Duration = Duration::from_secs(60);
const PRUNE_LIMIT: i64 = 2_000;
/// How often the group's members are counted.
const COUNT_MEMBERS: Duration = Duration::from_secs(10);

/// Tries redriven dead letters, deletes old inbox rows, counts dead letters and members.
pub(crate) async fn tend<L: Listener>(
    context: Arc<MemberContext<L>>,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let (mut redrive, mut prune) = (interval(REDRIVE_POLL), interval(PRUNE));
    let mut members = interval(COUNT_MEMBERS);
    members.set_missed_tick_behavior(MissedTickBehavior::Delay);
    redrive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    prune.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut cut_short = None;
    loop {
        let done = tokio::select! {
            () = shutdown.begun() => return Ok(()),
            _ = redrive.tick() => {
                let done = redrive_all(&context, &mut cut_short).await;
                if done.is_err() {
                    // Nobody knows how many there are.
                    metrics::gauge!("bus_dead_letters", "group" => L::QUEUE_GROUP).set(f64::NAN);
                }
                done
            }
            _ = prune.tick() => forget_old(&context).await,
            _ = members.tick() => {
                count_members(&context).await;
                Ok(())
            }
        };
        match done {
            Err(error) if database_is_away(&error) => {
                debug!(%error, "dead letters must wait")
            }
            Err(error) => error!(%error, "could not tend dead letters"),
            Ok(()) => {}
        }
    }
}

/// Tries every dead letter that waits for it. One that an outage cuts short stays in `cut_short`,
/// to be given back once more when the database answers.
async fn redrive_all<L: Listener>(
    context: &MemberContext<L>,
    cut_short: &mut Option<i64>,
) -> Result<(), sqlx::Error> {
    // A session that ended during an outage has left this to be done.
    if context.has_interrupted() {
        context.take_back().await?;
    }
    if let Some(id) = *cut_short {
        let redrive = async |connection: &mut PgConnection| {
            dead_letters::redrive(connection, Which::One(id)).await
        };
        context.pool.run(redrive).await?;
        *cut_short = None;
    }
    loop {
        match context.redrive().await? {
            Redrive::Tried => {}
            Redrive::NoneWaits => break,
            Redrive::CutShort(id) => {
                *cut_short = Some(id);
                return Ok(());
            }
        }
    }
    let count =
        async |connection: &mut PgConnection| dead_letters::count(connection, L::QUEUE_GROUP).await;
    let count = context.pool.run(count).await?;
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    metrics::gauge!("bus_dead_letters", "group" => L::QUEUE_GROUP).set(count as f64);
    Ok(())
}

async fn forget_old<L: Listener>(context: &MemberContext<L>) -> Result<(), sqlx::Error> {
    let expire = async |connection: &mut PgConnection| {
        inbox::empty_expired(&mut *connection).await?;
        inbox::drop_table_before(connection).await
    };
    context.pool.run(expire).await?;
    let prune = async |connection: &mut PgConnection| inbox::prune(connection, PRUNE_LIMIT).await;
    while context.pool.run(prune).await? == PRUNE_LIMIT.unsigned_abs() {}
    Ok(())
}

async fn count_members<L: Listener>(context: &MemberContext<L>) {
    match tokio::time::timeout(COUNT_MEMBERS, lease::holders(&context.bus)).await {
        Ok(Ok(holders)) => {
            let group = |group: &String| group == L::QUEUE_GROUP;
            let members = holders.values().filter(|holder| holder.queue_groups.iter().any(group));
            #[expect(clippy::cast_precision_loss, reason = "a gauge")]
            metrics::gauge!("bus_group_members", "group" => L::QUEUE_GROUP)
                .set(members.count() as f64);
        }
        Ok(Err(error)) => debug!(error = format!("{error:#}"), "could not count the members"),
        Err(_) => debug!("could not count the members in time"),
    }
}
