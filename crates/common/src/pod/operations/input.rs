//! The input of the operations API, parsed strictly.

use axum::{extract::Query, http::Uri};
use bus::{
    dead_letters::{
        acts::{AT_ONCE, Selection},
        search::Filter,
    },
    shown,
};
use serde::de::DeserializeOwned;

use crate::pod::{body::Fields, page::bad_request, problem::Problem};

/// The longest name of an operator, in characters.
pub const LONGEST_NAME: usize = 100;
/// The longest text that is searched for, in characters.
pub const LONGEST_TEXT: usize = 400;
/// The most rows of an answer, and how many it has if the client does not say.
const MOST_ROWS: i64 = 200;
const USUAL_ROWS: i64 = 50;

/// The parameters of a query; a type that denies unknown fields refuses unknown parameters.
pub(super) fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    let parsed = Query::<T>::try_from_uri(uri);
    parsed.map(|Query(parsed)| parsed).map_err(|bad| bad_request("query", &bad.body_text()))
}

/// How many rows an answer has: `limit`, or [`USUAL_ROWS`].
pub(super) fn limit(given: Option<i64>) -> Result<i64, Problem> {
    let limit = given.unwrap_or(USUAL_ROWS);
    let fits = (1..=MOST_ROWS).contains(&limit);
    fits.then_some(limit).ok_or_else(|| bad_request("limit", &format!("must be 1 to {MOST_ROWS}")))
}

/// A filter whose texts are no longer than the texts that they are compared with.
pub(super) fn checked(filter: Filter) -> Result<Filter, Problem> {
    let texts = [
        ("queueGroup", &filter.queue_group),
        ("subject", &filter.subject),
        ("reason", &filter.reason),
        ("text", &filter.text),
    ];
    for (field, text) in texts {
        let fits = |text: &String| {
            (1..=LONGEST_TEXT).contains(&text.chars().count()) && !text.contains('\0')
        };
        if !text.as_ref().is_none_or(fits) {
            let message = format!("must have 1 to {LONGEST_TEXT} characters, and no NUL");
            return Err(bad_request(field, &message));
        }
    }
    Ok(filter)
}

/// A requested act.
#[derive(Debug)]
pub(super) struct Wanted {
    /// The name that the operator gives.
    pub(super) by: String,
    /// What to act on. With a filter and no `upTo`: up to the newest dead letter now.
    pub(super) selection: Selection,
    pub(super) up_to: Option<i64>,
    /// Only count the dead letters.
    pub(super) dry_run: bool,
}

impl Wanted {
    /// Reads a body.
    pub(super) fn read(mut fields: Fields) -> Result<Self, Problem> {
        let by = fields.required::<String>("by");
        let by = by.map(|name| name.trim().to_owned());
        let fits = |name: &String| {
            (1..=LONGEST_NAME).contains(&name.chars().count()) && shown(name) == name.as_str()
        };
        if by.as_ref().is_some_and(|name| !fits(name)) {
            let message = format!("must be a name of 1 to {LONGEST_NAME} visible characters");
            fields.refuse("by", message);
        }
        let ids = fields.optional::<Vec<i64>>("ids");
        let filter = fields.optional::<Filter>("filter");
        let after = fields.optional::<i64>("after").unwrap_or(0);
        let up_to = fields.optional::<i64>("upTo");
        let dry_run = fields.optional::<bool>("dryRun").unwrap_or(false);
        let selection = match (ids, filter) {
            (Some(ids), None) if (1..=AT_ONCE).contains(&ids.len()) => Some(Selection::Ids(ids)),
            (Some(_), None) => {
                fields.refuse("ids", format!("must be 1 to {AT_ONCE} numbers"));
                None
            }
            (None, Some(filter)) => {
                Some(Selection::Filter { filter, after, up_to: up_to.unwrap_or(i64::MAX) })
            }
            (ids, _) => {
                let message = "give either ids or filter; an empty filter selects all dead letters";
                fields.refuse(if ids.is_some() { "filter" } else { "ids" }, message);
                None
            }
        };
        let wanted = by.zip(selection);
        let wanted = wanted.map(|(by, selection)| Self { by, selection, up_to, dry_run });
        let mut wanted = fields.finish(wanted)?;
        if let Selection::Filter { filter, .. } = &mut wanted.selection {
            *filter = checked(std::mem::take(filter))?;
        }
        Ok(wanted)
    }
}
