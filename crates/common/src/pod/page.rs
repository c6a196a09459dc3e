//! Pagination by cursor, newest first. New rows never shift the following pages, because a cursor
//! names a row and not an offset.

use axum::{
    extract::{FromRequestParts, Path, Query},
    http::{StatusCode, request::Parts},
};
use utoipa::{
    IntoParams,
    openapi::{
        KnownFormat, ObjectBuilder, SchemaFormat, Type,
        path::{Parameter, ParameterBuilder, ParameterIn},
    },
};
use uuid::Uuid;

use super::problem::{FieldError, Problem};

/// The most rows per page.
pub const MAX_LIMIT: i64 = 100;
/// The rows per page if the client does not say.
const DEFAULT_LIMIT: i64 = 20;

/// The query of a list: `limit` (1–[`MAX_LIMIT`]) and `after` (a cursor).
#[derive(Debug, Clone, Copy)]
pub struct PageQuery {
    limit: i64,
    /// The id of the row before the page.
    pub after: Option<Uuid>,
}

impl PageQuery {
    /// How many rows to read: one more than the page holds, to learn whether there is a next page.
    #[must_use]
    pub fn rows(self) -> i64 {
        self.limit + 1
    }

    /// Cuts the rows to the page's size. Returns the cursor of the next page, if there is one.
    pub fn cut<T>(self, rows: &mut Vec<T>, id: impl Fn(&T) -> Uuid) -> Option<String> {
        let size = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let more = rows.len() > size;
        rows.truncate(size);
        rows.last().filter(|_| more).map(|last| id(last).simple().to_string())
    }

    fn parse(parameters: Vec<(String, String)>) -> Result<Self, Problem> {
        let (mut limit, mut after, mut errors) = (None, None, Vec::new());
        for (name, value) in parameters {
            let given = match name.as_str() {
                "limit" => &mut limit,
                "after" => &mut after,
                _ => {
                    errors.push(error(&name, "is not a parameter of this request"));
                    continue;
                }
            };
            if given.replace(value).is_some() {
                errors.push(error(&name, "must be given once"));
            }
        }
        let limit = limit.map_or(Some(DEFAULT_LIMIT), |text| whole_number(&text));
        let limit = limit.filter(|limit| (1..=MAX_LIMIT).contains(limit));
        if limit.is_none() {
            errors.push(error("limit", &format!("must be a whole number from 1 to {MAX_LIMIT}")));
        }
        let cursor = after.as_deref().map(cursor);
        if matches!(cursor, Some(None)) {
            errors.push(error("after", "must be the next of an earlier page"));
        }
        match limit {
            Some(limit) if errors.is_empty() => Ok(Self { limit, after: cursor.flatten() }),
            _ => Err(Problem::invalid(errors)),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PageQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::<Vec<(String, String)>>::from_request_parts(parts, state).await {
            Ok(Query(parameters)) => Self::parse(parameters),
            Err(_) => {
                Err(Problem::invalid(vec![error("query", "must be pairs of name and value")]))
            }
        }
    }
}

/// The description of `limit` and `after` in OpenAPI.
impl IntoParams for PageQuery {
    fn into_params(_place: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let limit = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
            .minimum(Some(1))
            .maximum(Some(MAX_LIMIT))
            .default(Some(DEFAULT_LIMIT.into()));
        let after = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[0-9a-f]{32}$"));
        let parameter = |name: &str, description: &str, schema: ObjectBuilder| {
            ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Query)
                .description(Some(description))
                .schema(Some(schema))
                .build()
        };
        vec![
            parameter("limit", "The most items per page.", limit),
            parameter("after", "The cursor: `next` from the previous page.", after),
        ]
    }
}

/// The id in a path. Only hyphenated, the form that the APIs themselves use.
#[derive(Debug, Clone, Copy)]
pub struct PathId(pub Uuid);

impl<S: Send + Sync> FromRequestParts<S> for PathId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = Path::<String>::from_request_parts(parts, state).await.ok();
        text.filter(|Path(text)| text.len() == uuid::fmt::Hyphenated::LENGTH)
            .and_then(|Path(text)| Uuid::try_parse(&text).ok())
            .map(Self)
            .ok_or_else(|| {
                let message = "must be a UUID, such as 01936b2e-7c00-7000-8000-000000000001";
                bad_request("id", message)
            })
    }
}

/// 400 that names the invalid part of the path or the invalid header.
#[must_use]
pub fn bad_request(field: &str, message: &str) -> Problem {
    let problem = Problem::new(StatusCode::BAD_REQUEST, format!("{field} {message}"));
    Problem { errors: vec![error(field, message)], ..problem }
}

/// Parses digits only; `parse` would accept a sign too.
fn whole_number(text: &str) -> Option<i64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// The row that a cursor names. Only one form is accepted, so that no client comes to rely on
/// another.
fn cursor(text: &str) -> Option<Uuid> {
    let id = Uuid::try_parse(text).ok()?;
    (id.simple().to_string() == text).then_some(id)
}

fn error(field: &str, message: &str) -> FieldError {
    FieldError { field: field.to_owned(), message: message.to_owned() }
}
