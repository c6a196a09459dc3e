//! What a client may ask for, as types that cannot be wrong.

use common::{
    events::{money::Price, ticket::Ticket, title::Title},
    pod::{auth::Caller, body::Fields, database::now, problem::Problem},
};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

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

    /// The first version of a seller's ticket, with an id of its own.
    #[must_use]
    pub fn into_ticket(self, seller: &Caller) -> Ticket {
        let now = now();
        Ticket {
            id: Uuid::now_v7(),
            title: self.title.into(),
            price: self.price,
            version: 1,
            created_at: now,
            updated_at: now,
            seller: Some(seller.as_str().to_owned()),
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
