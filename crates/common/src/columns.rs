//! Maps a struct's fields to the columns of a table, so that each field is named once. `columns!`
//! declares the struct, and the SQL that lists its columns is generated from it. `statements!`
//! names a store's SQL statements, and [`check`] lets Postgres check them in a test.

use std::{collections::BTreeSet, sync::LazyLock};

use sqlx::{
    AssertSqlSafe, PgConnection, Postgres, SqlSafeStr, SqlStr,
    postgres::{PgArguments, PgTypeInfo},
    query::{Query, QueryAs, QueryScalar},
};

/// A struct whose fields are columns. Declare it with `columns!`(crate::columns!).
pub trait Columns: Sized {
    /// The columns' names, in field order.
    const NAMES: &'static [&'static str];

    /// The columns' types.
    fn types() -> Vec<PgTypeInfo>;

    /// Binds one array for each column, as [`unnest`] expects them.
    fn bind<'q, B: Bind<'q>>(rows: &[&'q Self], query: B) -> B;
}

/// A query that takes parameters.
pub trait Bind<'q>: Sized {
    /// Binds the next parameter.
    #[must_use]
    fn value<T: 'q + sqlx::Encode<'q, Postgres> + sqlx::Type<Postgres>>(self, value: T) -> Self;
}

macro_rules! bind {
    ($($query:ty, $($parameter:ident)?;)+) => {
        $(impl<'q, $($parameter)?> Bind<'q> for $query {
            fn value<T: 'q + sqlx::Encode<'q, Postgres> + sqlx::Type<Postgres>>(
                self,
                value: T,
            ) -> Self {
                self.bind(value)
            }
        })+
    };
}
bind! {
    Query<'q, Postgres, PgArguments>, ;
    QueryAs<'q, Postgres, O, PgArguments>, O;
    QueryScalar<'q, Postgres, O, PgArguments>, O;
}

/// Lists the columns of `T` for a select or insert, each qualified by this table:
/// `tickets.id, tickets.title`. Never use `*`: a release that adds a column would break the
/// statements that the previous release has prepared.
#[must_use]
pub fn of<T: Columns>(table: &str) -> String {
    join(T::NAMES.iter().map(|name| format!("{table}.{name}")))
}

/// Lists the unqualified columns of `T`: `id, title`.
#[must_use]
pub fn names<T: Columns>() -> String {
    T::NAMES.join(", ")
}

/// Rows of `T`, passed as one array per column in the parameters from `first` on:
/// `unnest($1::uuid[], $2::text[]) as new (id, title)`.
#[must_use]
pub fn unnest<T: Columns>(first: usize, alias: &str) -> String {
    let types = T::types();
    let arrays = types.iter().enumerate().map(|(at, of)| format!("${}::{of}[]", first + at));
    format!("unnest({}) as {alias} ({})", join(arrays), names::<T>())
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

/// Declares a struct whose fields are columns. Fields in a second pair of braces are not columns:
/// the SQL that reads the struct computes each from columns of its own.
#[macro_export]
macro_rules! columns {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $( $(#[$column_meta:meta])* $column_vis:vis $column:ident: $type:ty, )+
        } $( and {
            $( $(#[$part_meta:meta])* $part_vis:vis $part:ident: $part_type:ty, )+
        } )?
    ) => {
        $(#[$meta])*
        $vis struct $name {
            $( $(#[$column_meta])* $column_vis $column: $type, )+
            $($( $(#[$part_meta])* $part_vis $part: $part_type, )+)?
        }

        impl $crate::columns::Columns for $name {
            const NAMES: &'static [&'static str] = &[$( stringify!($column) ),+];

            fn types() -> Vec<::sqlx::postgres::PgTypeInfo> {
                vec![$( <$type as ::sqlx::Type<::sqlx::Postgres>>::type_info() ),+]
            }

            fn bind<'q, B: $crate::columns::Bind<'q>>(rows: &[&'q Self], query: B) -> B {
                query$( .value(rows.iter().map(|row| &row.$column).collect::<Vec<_>>()) )+
            }
        }
    };
}

/// An SQL statement, built at its first use. No caller's input is part of it.
#[derive(Debug)]
pub struct Statement(LazyLock<String>);

impl Statement {
    /// A statement built by this function.
    #[must_use]
    pub const fn new(make: fn() -> String) -> Self {
        Self(LazyLock::new(make))
    }

    /// Returns its SQL.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SqlSafeStr for &'static Statement {
    fn into_sql_str(self) -> SqlStr {
        SqlStr::from_static(self.as_str())
    }
}

/// Declares a store's SQL statements, each with a name, and `statements()`, which lists them for
/// [`check`].
#[macro_export]
macro_rules! statements {
    ($( $(#[doc = $doc:literal])+ $name:ident = $sql:expr; )+) => {
        $(
            $(#[doc = $doc])+
            static $name: $crate::columns::Statement =
                $crate::columns::Statement::new(|| String::from($sql));
        )+

        /// Every statement of this file, by name.
        #[must_use]
        pub fn statements() -> Vec<(&'static str, &'static str)> {
            vec![$( (stringify!($name), $name.as_str()) ),+]
        }
    };
}

/// Lets Postgres parse each statement, and compares each table with the known columns. For a
/// service's tests.
///
/// # Errors
/// Every mismatch found.
pub async fn check(
    connection: &mut PgConnection,
    statements: &[(&str, &str)],
    tables: &[(&str, &[&[&str]])],
) -> Result<(), String> {
    let mut faults = Vec::new();
    for (name, sql) in statements {
        let prepare = format!("prepare checked as {sql}");
        match sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut *connection).await {
            Ok(_) => {
                let _ = sqlx::raw_sql("deallocate checked").execute(&mut *connection).await;
            }
            Err(error) => faults.push(format!("{name}: {error}")),
        }
    }
    for (table, columns) in tables {
        let there: Vec<String> = sqlx::query_scalar(
            "select attname::text from pg_attribute
             where attrelid = $1::text::regclass and attnum > 0 and not attisdropped",
        )
        .bind(table)
        .fetch_all(&mut *connection)
        .await
        .map_err(|error| format!("{table}: {error}"))?;
        let there: BTreeSet<&str> = there.iter().map(String::as_str).collect();
        let known: BTreeSet<&str> = columns.iter().copied().flatten().copied().collect();
        if there != known {
            let (forgotten, missing): (Vec<_>, Vec<_>) =
                (there.difference(&known).collect(), known.difference(&there).collect());
            faults.push(format!(
                "{table}: unknown columns {forgotten:?}, missing columns {missing:?}"
            ));
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

/// Returns whether a store's source runs SQL that is not declared by `statements!`, which [`check`]
/// would not see.
#[must_use]
pub fn has_unnamed(source: &str) -> bool {
    let source: String = source.split_whitespace().collect();
    ["query(\"", "query_as(\"", "query_scalar(\"", "AssertSqlSafe("]
        .iter()
        .any(|call| source.contains(call))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sql_passed_to_a_query_without_a_name_is_found() {
        assert!(has_unnamed("sqlx::query_as(\n    \"select 1\",\n)"));
        assert!(!has_unnamed("sqlx::query_as(&FIND).bind(\"x\")"));
    }
}
