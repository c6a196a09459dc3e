//! What a client may ask for, as types that cannot be wrong.

use std::collections::BTreeMap;

use common::{
    events::{money::Price, ticket::Ticket, title::Title},
    pod::{auth::Caller, body::Fields, database::now, problem::Problem},
};
use serde::Serialize;
use serde_json::{json, value::RawValue};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{KnownFormat, ObjectBuilder, RefOr, Schema, SchemaFormat, Type},
};
use uuid::Uuid;

common::columns! {
    /// What a seller says of a ticket. The service sets the rest.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    #[schema(example = json!({ "title": "Concert", "price": 20.50 }))]
    pub struct NewTicket {
        /// Its title.
        pub title: Title,
        /// Its price.
        pub price: Price,
    }
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

    /// What tells this request from another with the same Idempotency-Key: every field. Title and price
    /// are written as the first release wrote them, and a field that is left out not at all: requests
    /// from before a field was added are still the same.
    ///
    /// # Errors
    /// When a field does not serialize.
    pub fn canonical(&self) -> serde_json::Result<String> {
        // A title holds no U+0000, so the parts cannot be read as other parts.
        let mut canonical = format!("{}\0{}", self.title.as_str(), self.price);
        let mut fields: BTreeMap<String, Box<RawValue>> =
            serde_json::from_str(&serde_json::to_string(self)?)?;
        fields.retain(|field, value| {
            !["title", "price"].contains(&field.as_str()) && value.get() != "null"
        });
        for (field, value) in fields {
            canonical.push_str(&format!("\0{field}={value}"));
        }
        Ok(canonical)
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

/// The new title and price of a ticket. Both are required; a field that is left out does not keep its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedTicket {
    /// What its seller says of it now.
    pub to: NewTicket,
    /// The version that the change was made from, for clients that do not send If-Match.
    pub version: Option<i32>,
}

impl ChangedTicket {
    /// Reads a PUT's body.
    ///
    /// # Errors
    /// 422 with each bad field.
    pub fn parse(mut fields: Fields) -> Result<Self, Problem> {
        let to = NewTicket::take(&mut fields);
        let version = fields.optional::<i32>("version");
        if version.is_some_and(|version| version < 1) {
            fields.refuse("version", "must be at least 1");
        }
        Ok(Self { to: fields.finish(to)?, version })
    }
}

impl PartialSchema for ChangedTicket {
    /// A [`NewTicket`]'s with a version.
    fn schema() -> RefOr<Schema> {
        let mut schema = NewTicket::schema();
        if let RefOr::T(Schema::Object(object)) = &mut schema {
            let version = ObjectBuilder::new()
                .schema_type(Type::Integer)
                .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int32)))
                .minimum(Some(1))
                .description(Some(
                    "The version that the change was made from, for clients that do not send If-Match.",
                ));
            object.properties.insert("version".to_owned(), version.build().into());
            object.description = Some(
                "The new title and price of a ticket. Both are required; a field that is left out does not keep its value."
                    .to_owned(),
            );
            object.example = Some(json!({ "title": "Concert", "price": 25, "version": 1 }));
        }
        schema
    }
}

impl ToSchema for ChangedTicket {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        NewTicket::schemas(schemas);
    }
}

#[cfg(test)]
mod tests {
    use common::columns::Columns;

    use super::*;

    /// The columns of a ticket that no seller says.
    const SET_HERE: &[&str] = &["id", "version", "created_at", "updated_at", "seller"];

    #[test]
    fn the_same_values_are_the_same_request_however_they_were_written() {
        let canonical = |body: &'static str| {
            NewTicket::parse(Fields::parse(body.into()).unwrap()).unwrap().canonical().unwrap()
        };
        let given = canonical(r#"{"title":"Concert","price":20.5}"#);
        assert_eq!(given, canonical("{ \"price\": 2050e-2, \"title\": \" Concert \" }"));
        assert_ne!(given, canonical(r#"{"title":"Concert","price":20.51}"#));
        assert_ne!(given, canonical(r#"{"title":"concert","price":20.5}"#));
    }

    #[test]
    fn requests_are_the_same_as_by_the_release_before() {
        let new =
            NewTicket::parse(Fields::parse(r#"{"title":"Concert","price":1}"#.into()).unwrap());
        assert_eq!(new.unwrap().canonical().unwrap(), "Concert\u{0}1.00");
    }

    #[test]
    fn a_sellers_words_and_what_is_set_here_make_a_whole_ticket() {
        let mut made = [NewTicket::NAMES, SET_HERE].concat();
        let mut whole = Ticket::NAMES.to_vec();
        made.sort_unstable();
        whole.sort_unstable();
        assert_eq!(made, whole);
    }
}
