//! A member's upkeep: it retries redriven dead letters, prunes the inbox, and measures dead letters and
//! members.

use std::{sync::Arc, time::Duration};

use sqlx::PgConnection;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, error};

use crate::{
    dead_letters::{self, Which},
    effect::MemberContext,
    error::database_is_away,
    inbox, lease,
    listener::Listener,
    redrive::Redrive,
    shutdown::Shutdown,
};

/// How often to look for redriven dead letters.
const REDRIVE_POLL: Duration = Duration::from_secs(1);
/// How often to count the dead letters.
const COUNT: Duration = Duration::from_secs(5);
/// How often to prune the inbox.
const PRUNE: Duration = Duration::from_secs(60);
/// How many rows one statement prunes: some tens of milliseconds of work.
const PRUNE_LIMIT: i64 = 2_000;
/// How often to count the group's members.
const COUNT_MEMBERS: Duration = Duration::from_secs(10);

/// Does a member's upkeep until the process stops.
pub(crate) async fn run<L: Listener>(context: Arc<MemberContext<L>>, shutdown: Shutdown) {
    let (mut redrive, mut prune) = (interval(REDRIVE_POLL), interval(PRUNE));
    let (mut count, mut members) = (interval(COUNT), interval(COUNT_MEMBERS));
    count.set_missed_tick_behavior(MissedTickBehavior::Delay);
    members.set_missed_tick_behavior(MissedTickBehavior::Delay);
    redrive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    prune.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut interrupted = None;
    loop {
        let done = tokio::select! {
            () = shutdown.begun() => return,
            _ = redrive.tick() => redrive_all(&context, &shutdown, &mut interrupted).await,
            _ = count.tick() => {
                let done = count_dead_letters(&context).await;
                if done.is_err() {
                    // The number is unknown.
                    metrics::gauge!("bus_dead_letters", "group" => L::QUEUE_GROUP).set(f64::NAN);
                }
                done
            }
            _ = prune.tick() => prune_inbox(&context, &shutdown).await,
            _ = members.tick() => tokio::select! {
                () = shutdown.begun() => return,
                () = count_members(&context) => Ok(()),
            },
        };
        match done {
            Err(error) if database_is_away(&error) => {
                debug!(%error, "the database is unavailable, retrying the maintenance later")
            }
            Err(error) => error!(%error, "maintenance of dead letters and inbox failed, retrying"),
            Ok(()) => {}
        }
    }
}

/// Retries every redriven dead letter, until the process stops. One that an outage interrupts stays in
/// `interrupted`, to be redriven again when the database answers.
async fn redrive_all<L: Listener>(
    context: &MemberContext<L>,
    shutdown: &Shutdown,
    interrupted: &mut Option<i64>,
) -> Result<(), sqlx::Error> {
    // A session that ended during an outage may have left some.
    if context.has_interrupted() {
        context.uncount_interrupted().await?;
    }
    if let Some(id) = *interrupted {
        let redrive = async |connection: &mut PgConnection| {
            dead_letters::redrive(connection, Which::One(id)).await
        };
        context.pool.run(redrive).await?;
        *interrupted = None;
    }
    while !shutdown.has_begun() {
        match context.redrive().await? {
            Redrive::Tried => {}
            Redrive::None => break,
            Redrive::Interrupted(id) => {
                *interrupted = Some(id);
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn count_dead_letters<L: Listener>(context: &MemberContext<L>) -> Result<(), sqlx::Error> {
    let count =
        async |connection: &mut PgConnection| dead_letters::count(connection, L::QUEUE_GROUP).await;
    let count = context.pool.run(count).await?;
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    metrics::gauge!("bus_dead_letters", "group" => L::QUEUE_GROUP).set(count as f64);
    Ok(())
}

async fn prune_inbox<L: Listener>(
    context: &MemberContext<L>,
    shutdown: &Shutdown,
) -> Result<(), sqlx::Error> {
    let expire = async |connection: &mut PgConnection| {
        inbox::empty_expired(&mut *connection).await?;
        inbox::drop_previous_table(connection).await
    };
    context.pool.run(expire).await?;
    let prune = async |connection: &mut PgConnection| inbox::prune(connection, PRUNE_LIMIT).await;
    while !shutdown.has_begun() && context.pool.run(prune).await? == PRUNE_LIMIT.unsigned_abs() {}
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
        Ok(Err(error)) => debug!(%error, "could not count the group's members"),
        Err(_) => debug!("could not count the group's members in time"),
    }
}
