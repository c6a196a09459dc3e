//! What a client may ask for, as types that cannot be wrong.

use common::{
    events::{money::Price, ticket::Ticket},
    pod::{body::Fields, database::now, problem::Problem},
};
use serde::Serialize;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};
use uuid::Uuid;

/// A ticket's title: 1–200 characters (Unicode scalar values) after the white space around it was
/// taken away, none of them a control character.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Title(String);

/// Why a text is not a [`Title`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TitleError {
    /// Nothing is left after trimming.
    #[error("must have at least one character that is not white space")]
    Empty,
    /// More than [`Title::MAX_CHARACTERS`].
    #[error("must have at most {max} characters, has {0}", max = Title::MAX_CHARACTERS)]
    TooLong(usize),
    /// A title is one line of text; and Postgres cannot hold U+0000.
    #[error("must not hold control characters, holds U+{0:04X}")]
    Control(u32),
}

impl Title {
    /// The longest title, in characters.
    pub const MAX_CHARACTERS: usize = 200;
    /// The same for machines: white space around a text that neither begins nor ends with it and
    /// holds no control character. Spelled out, because `\s` differs from one dialect to another.
    const PATTERN: &str = concat!(
        r"^[\t-\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*",
        r"[^\u0000- \u007f-\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]",
        r"([^\u0000-\u001f\u007f-\u009f]*",
        r"[^\u0000- \u007f-\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000])?",
        r"[\t-\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*$",
    );

    /// The title as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Title {
    type Error = TitleError;

    fn try_from(text: String) -> Result<Self, TitleError> {
        let text = text.trim();
        let characters = text.chars().count();
        if characters == 0 {
            Err(TitleError::Empty)
        } else if let Some(control) = text.chars().find(|c| c.is_control()) {
            Err(TitleError::Control(control.into()))
        } else if characters > Self::MAX_CHARACTERS {
            Err(TitleError::TooLong(characters))
        } else {
            Ok(Self(text.to_owned()))
        }
    }
}

impl PartialSchema for Title {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .min_length(Some(1))
            .max_length(Some(Self::MAX_CHARACTERS))
            .pattern(Some(Self::PATTERN))
            .description(Some("The title. White space around it is taken away."))
            .into()
    }
}

impl ToSchema for Title {}

/// A ticket as a client wants it to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "title": "Concert", "price": 20.50 }))]
pub struct NewTicket {
    /// Its title.
    pub title: Title,
    /// Its price.
    pub price: Price,
}

impl NewTicket {
    /// Reads a POST's body.
    ///
    /// # Errors
    /// 422 with each bad field.
    pub fn parse(mut fields: Fields) -> Result<Self, Problem> {
        let new = Self::take(&mut fields);
        fields.finish(new)
    }

    fn take(fields: &mut Fields) -> Option<Self> {
        let title = fields.required::<String>("title").and_then(|text| {
            Title::try_from(text).map_err(|error| fields.refuse("title", error.to_string())).ok()
        });
        let price = fields.required::<Price>("price");
        Some(Self { title: title?, price: price? })
    }

    /// What tells this request from another with the same Idempotency-Key.
    #[must_use]
    pub fn canonical(&self) -> String {
        // A title holds no U+0000, so the pair cannot be read as another pair.
        format!("{}\0{}", self.title.as_str(), self.price)
    }

    /// The first version of a ticket, with an id of its own.
    #[must_use]
    pub fn into_ticket(self) -> Ticket {
        let now = now();
        Ticket {
            id: Uuid::now_v7(),
            title: self.title.0,
            price: self.price,
            version: 1,
            created_at: now,
            updated_at: now,
            hold: None,
        }
    }
}

/// What a ticket is to become, whole: a field left out is not kept, it is missed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "title": "Concert", "price": 25, "version": 1 }))]
pub struct ChangedTicket {
    /// Its title.
    pub title: Title,
    /// Its price.
    pub price: Price,
    /// The version that the change was made from, for clients that do not send If-Match.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, nullable = false)]
    pub version: Option<i32>,
}

impl ChangedTicket {
    /// Reads a PUT's body.
    ///
    /// # Errors
    /// 422 with each bad field.
    pub fn parse(mut fields: Fields) -> Result<Self, Problem> {
        let new = NewTicket::take(&mut fields);
        let version = fields.optional::<i32>("version");
        if version.is_some_and(|version| version < 1) {
            fields.refuse("version", "must be at least 1");
        }
        let NewTicket { title, price } = fields.finish(new)?;
        Ok(Self { title, price, version })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_is_trimmed_and_counted_in_characters() {
        for (given, kept) in [
            ("  Concert\n", "Concert"),
            ("\u{3000}Konzert\u{2009}für zwei\u{a0}", "Konzert\u{2009}für zwei"),
            (&"é".repeat(200), &"é".repeat(200)),
            (&format!("{} ", "🎫".repeat(200)), &"🎫".repeat(200)),
        ] {
            assert_eq!(Title::try_from(given.to_owned()).unwrap().as_str(), kept);
        }
    }

    #[test]
    fn what_is_not_a_title_is_refused_with_its_reason() {
        for (given, error) in [
            ("", TitleError::Empty),
            (" \t\u{85}\u{3000}", TitleError::Empty),
            (&"é".repeat(201), TitleError::TooLong(201)),
            ("a\0b", TitleError::Control(0)),
            ("a\nb", TitleError::Control(10)),
            ("a\u{9f}b", TitleError::Control(0x9f)),
        ] {
            assert_eq!(Title::try_from(given.to_owned()), Err(error), "{given:?}");
        }
    }

    #[test]
    fn the_same_values_are_the_same_request_however_they_were_written() {
        let canonical = |body: &'static str| {
            NewTicket::parse(Fields::parse(body.into()).unwrap()).unwrap().canonical()
        };
        let given = canonical(r#"{"title":"Concert","price":20.5}"#);
        assert_eq!(given, canonical("{ \"price\": 2050e-2, \"title\": \" Concert \" }"));
        assert_ne!(given, canonical(r#"{"title":"Concert","price":20.51}"#));
        assert_ne!(given, canonical(r#"{"title":"concert","price":20.5}"#));
    }
}
