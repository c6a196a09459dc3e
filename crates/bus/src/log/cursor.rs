//! How far a stream has been published.

use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::place::Place;

/// A snapshot in which only rows moved from the previous release's table are visible. Their transaction number
/// is below every real one.
pub(crate) const NOTHING: &str = "3:3:";
/// The largest difference between the clocks of two database clusters.
const CLOCKS_DIFFER: time::Duration = time::Duration::hours(1);

/// How far a stream has been published, and the stream's last known state.
#[derive(Debug, Clone, Default, PartialEq, sqlx::FromRow)]
pub(crate) struct Cursor {
    /// Everything visible in this snapshot has been published.
    pub(crate) done: String,
    /// The snapshot that is being published in pages.
    pub(crate) target: Option<String>,
    at_transaction: Option<i64>,
    at_position: Option<i64>,
    /// The stream's creation time when it was last published to.
    pub(crate) created: Option<OffsetDateTime>,
    /// The last sequence that the stream confirmed, and the publication that stored it.
    pub(crate) last_sequence: i64,
    pub(crate) last_id: Option<Uuid>,
    /// The stream's first sequence and number of deleted messages, when last verified.
    pub(crate) first_sequence: i64,
    pub(crate) deleted: i64,
    /// The sequence up to which every group has acknowledged, as last seen.
    pub(crate) acknowledged: i64,
    /// The row's `ctid`. The row is written once a page. A lookup by key would step over every old version
    /// that a long transaction elsewhere keeps alive.
    version: String,
}

/// The columns of a [`Cursor`].
const COLUMNS: &str = "done::text, target::text, at_transaction::text::bigint, at_position, created, \
                       last_sequence, last_id, first_sequence, deleted, acknowledged, \
                       ctid::text as version";

impl Cursor {
    /// The row of `target` after which to continue.
    pub(crate) fn at(&self) -> Place {
        Place::of(self.at_transaction, self.at_position)
    }

    /// Advances the cursor past a page of `target` that ended at this place. `None`: past all of `target`.
    pub(crate) fn advanced(&mut self, target: &str, end: Option<Place>) {
        if let Some(end) = end {
            self.target = Some(target.to_owned());
            self.at_transaction = Some(end.transaction);
            self.at_position = Some(end.position);
        } else {
            target.clone_into(&mut self.done);
            self.target = None;
            self.at_transaction = None;
            self.at_position = None;
        }
    }

    /// Reads a stream's cursor, or creates it. If the database was restored into another cluster, whose
    /// transactions have other numbers, the cursor starts over, and what may not have been published before
    /// the restore becomes a range to republish.
    pub(crate) async fn load(
        connection: &mut PgConnection,
        stream: &str,
    ) -> Result<(Self, Loaded), sqlx::Error> {
        let inserted = sqlx::query(
            "insert into bus.progress (stream, cluster, done, done_at)
             select $1, system_identifier, $2::pg_snapshot, clock_timestamp() from pg_control_system()
             on conflict do nothing",
        )
        .bind(stream)
        .bind(NOTHING)
        .execute(&mut *connection)
        .await?;
        let restored = if inserted.rows_affected() == 0 {
            begin_anew(connection, stream).await?
        } else {
            foreign_rows(connection, stream).await?
        };
        let loaded = if restored { Loaded::Restored } else { Loaded::AsItWas };
        let select = format!("select {COLUMNS} from bus.progress where stream = $1");
        let cursor = sqlx::query_as(sqlx::AssertSqlSafe(select)).bind(stream);
        Ok((cursor.fetch_one(connection).await?, loaded))
    }

    /// Writes the cursor. `false` if the row has another `ctid`: another process has written or moved it, and
    /// it has to be read again.
    pub(crate) async fn store(
        &mut self,
        connection: &mut PgConnection,
        stream: &str,
    ) -> Result<bool, sqlx::Error> {
        let version: Option<String> = sqlx::query_scalar(
            "update bus.progress
             set done = $3::pg_snapshot,
                 done_at = case when done::text = $3 then done_at else clock_timestamp() end,
                 target = $4::pg_snapshot, at_transaction = $5::text::xid8, at_position = $6,
                 created = $7, last_sequence = $8, last_id = $9,
                 first_sequence = $10, deleted = $11, acknowledged = $12
             where ctid = $1::text::tid and stream = $2
             returning ctid::text",
        )
        .bind(&self.version)
        .bind(stream)
        .bind(&self.done)
        .bind(&self.target)
        .bind(self.at_transaction.map(|transaction| transaction.to_string()))
        .bind(self.at_position)
        .bind(self.created)
        .bind(self.last_sequence)
        .bind(self.last_id)
        .bind(self.first_sequence)
        .bind(self.deleted)
        .bind(self.acknowledged)
        .fetch_optional(connection)
        .await?;
        let Some(version) = version else { return Ok(false) };
        self.version = version;
        Ok(true)
    }
}

/// How a cursor was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loaded {
    /// It continues where it was.
    AsItWas,
    /// The database has been restored into another cluster.
    Restored,
}

/// Starts a cursor over if its transactions are those of another cluster.
///
/// A row of the log visible in the old snapshot is either of the old cluster and published, or of the new
/// cluster and not published. It can only be of the new cluster if it was written after the snapshot was taken.
async fn begin_anew(connection: &mut PgConnection, stream: &str) -> Result<bool, sqlx::Error> {
    // One statement: the new snapshot, and the range for everything before it, are stored together.
    let moved = sqlx::query(
        "with before as (
             select progress.* from bus.progress, pg_control_system()
             where stream = $1 and cluster <> system_identifier for update of progress
         ), anew as (
             update bus.progress
             set cluster = (select system_identifier from pg_control_system()),
                 done = pg_current_snapshot(), done_at = clock_timestamp(),
                 target = null, at_transaction = null, at_position = null
             from before where progress.stream = before.stream
             returning progress.done as now
         )
         insert into bus.ranges (stream, created, first_sequence, last_sequence, last_id, done, target,
                                 restored_after, events, lost)
         select stream, coalesce(created, 'epoch'), 0, 0, coalesce(last_id, gen_random_uuid()),
                done, now, done_at - $2, 0, true
         from before, anew",
    )
    .bind(stream)
    .bind(sqlx::postgres::types::PgInterval::try_from(CLOCKS_DIFFER).map_err(sqlx::Error::Encode)?)
    .execute(connection)
    .await?;
    Ok(moved.rows_affected() > 0)
}

/// For a new cursor on an existing log: rows with transaction numbers that this cluster has not
/// reached are of another cluster. They become a range to publish. (The new cursor finds the other
/// rows anyway.)
async fn foreign_rows(connection: &mut PgConnection, stream: &str) -> Result<bool, sqlx::Error> {
    let found = sqlx::query(
        "insert into bus.ranges (stream, created, first_sequence, last_sequence, last_id, done, target,
                                 restored_after, events, lost)
         select $1, 'epoch', 0, 0, gen_random_uuid(), $2::pg_snapshot, pg_current_snapshot(),
                'epoch', 0, true
         where exists (select from bus.log
                       where stream = $1 and transaction >= pg_snapshot_xmax(pg_current_snapshot()))",
    )
    .bind(stream)
    .bind(NOTHING)
    .execute(connection)
    .await?;
    Ok(found.rows_affected() > 0)
}
