//! The losses of a stream, and the ranges of the log that each affects.

use std::time::Duration;

use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

/// A stream expires a message some seconds before or after its maximum age. An event that old is no loss.
const AGE_SLACK: Duration = Duration::from_secs(600);

/// How many ranges one statement marks.
pub(crate) const PIECE: u64 = 2_000;

/// The part that a stream has lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Everything: the stream was recreated.
    All,
    /// Its end, from this sequence on.
    From(i64),
    /// One range, which others have overwritten since.
    Range(i64),
    /// Everything below this sequence: purged, or dropped by a limit.
    Below(i64),
    /// Single messages, at these sequences.
    Holes(Vec<i64>),
}

impl Loss {
    /// Whether the last confirmed message may be lost.
    pub(crate) fn is_of_the_end(&self) -> bool {
        matches!(self, Self::All | Self::From(_) | Self::Range(_))
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::All => "the stream was recreated",
            Self::From(_) => "the end of the stream",
            Self::Range(_) => "a part of the stream, overwritten by others",
            Self::Below(_) => "the beginning of the stream",
            Self::Holes(_) => "single messages",
        }
    }
}

/// Marks some of the ranges that a loss affects. Returns how many ranges, and how many events they hold.
pub(crate) async fn mark(
    connection: &mut PgConnection,
    stream: &str,
    created: OffsetDateTime,
    acknowledged: i64,
    retention: Duration,
    loss: &Loss,
) -> Result<(u64, i64), sqlx::Error> {
    // An event that expired, or that every group has acknowledged, is no loss.
    let had = "last_sequence > $3 and begun_at > clock_timestamp() - $5";
    let (which, from, holes): (String, i64, &[i64]) = match loss {
        Loss::All => ("created <> $2".to_owned(), 0, &[]),
        Loss::From(sequence) => ("created = $2 and last_sequence >= $4".to_owned(), *sequence, &[]),
        Loss::Range(number) => ("number = $4".to_owned(), *number, &[]),
        Loss::Below(first) => {
            (format!("created = $2 and first_sequence < $4 and {had}"), *first, &[])
        }
        Loss::Holes(holes) => (
            format!(
                "created = $2 and {had} and exists (select from unnest($6) as hole
                 where hole > $3 and hole between first_sequence and last_sequence)"
            ),
            0,
            holes,
        ),
    };
    let marked: (i64, Option<i64>) = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "with marked as (
             update bus.ranges set lost = true
             where number in (select number from bus.ranges
                              where stream = $1 and not lost and {which} limit {PIECE})
             returning events)
         select count(*), sum(events)::bigint from marked
         where $2::timestamptz is not null and $3::bigint is not null and $4::bigint is not null
           and $5::interval is not null and $6::bigint[] is not null"
    )))
    .bind(stream)
    .bind(created)
    .bind(acknowledged)
    .bind(from)
    .bind(retention - AGE_SLACK)
    .bind(holes)
    .fetch_one(connection)
    .await?;
    Ok((marked.0.unsigned_abs(), marked.1.unwrap_or_default()))
}

/// The newest ranges of an incarnation below a sequence: number, last sequence, and its publication.
pub(crate) async fn newest(
    connection: &mut PgConnection,
    stream: &str,
    created: OffsetDateTime,
    below: i64,
) -> Result<Vec<(i64, i64, Uuid)>, sqlx::Error> {
    sqlx::query_as(
        "select number, last_sequence, last_id from bus.ranges
         where stream = $1 and created = $2 and not lost and last_sequence < $3
         order by last_sequence desc limit 200",
    )
    .bind(stream)
    .bind(created)
    .bind(below)
    .fetch_all(connection)
    .await
}

#[cfg(test)]
mod tests {
    use embedded::Postgres;
    use sqlx::PgPool;

    use super::newest;
    use crate::log::session::Session;

    #[tokio::test]
    async fn the_newest_ranges_are_found_without_reading_the_others() {
        let postgres = Postgres::builder().fsync(false).start().await.unwrap();
        let pool = PgPool::connect(&postgres.create_database("log").await.unwrap()).await.unwrap();
        crate::migrate(&pool).await.unwrap();
        sqlx::raw_sql(
            "insert into bus.ranges (stream, created, first_sequence, last_sequence, last_id, done,
                                     target, events)
             select stream, '2026-01-01', n * 10 + 1, n * 10 + 10, gen_random_uuid(), '3:3:', '3:3:', 10
             from generate_series(0, 49999) as n, unnest(array['PARCELS', 'OTHER']) as stream;
             analyze bus.ranges",
        )
        .execute(&pool)
        .await
        .unwrap();
        let created = sqlx::query_scalar("select created from bus.ranges limit 1");
        let created = created.fetch_one(&pool).await.unwrap();
        let read = async || -> i64 {
            sqlx::query_scalar(
                "select (seq_tup_read + idx_tup_fetch)::bigint from pg_stat_user_tables
                 where relname = 'ranges'",
            )
            .fetch_one(&pool)
            .await
            .unwrap()
        };
        let mut session = Session::open(&pool.clone().into()).await.unwrap();
        let before = read().await;
        let mut below = i64::MAX;
        for _ in 0..10 {
            let found = newest(&mut session.connection, "PARCELS", created, below).await.unwrap();
            assert_eq!(found.len(), 200);
            below = found.last().unwrap().1;
        }
        assert_eq!(below, 480_010);
        let flush = "select pg_stat_force_next_flush()";
        sqlx::raw_sql(flush).execute(&mut session.connection).await.unwrap();
        sqlx::raw_sql("select 1").execute(&mut session.connection).await.unwrap();
        let read = read().await - before;
        assert!((2_000..3_000).contains(&read), "{read} rows read for 2,000");
    }
}
