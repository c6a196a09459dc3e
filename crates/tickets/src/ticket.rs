//! Requests, parsed into types that are valid by construction.

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
    /// The fields of a ticket that its seller sets. The service sets the rest.
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
    /// Parses a POST's body.
    ///
    /// # Errors
    /// 422 with every invalid field.
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

    /// Returns the text that requests with the same Idempotency-Key are compared by: every field.
    /// Title and price are written as the first release wrote them, and absent fields are omitted,
    /// so that a request from before a field was added still compares equal.
    ///
    /// # Errors
    /// If a field does not serialize.
    pub fn canonical(&self) -> serde_json::Result<String> {
        // A title cannot contain U+0000, so the parts are unambiguous.
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

    /// Returns the first version of a seller's ticket, with a new id.
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
    /// Its new title and price.
    pub to: NewTicket,
    /// The version that the change is based on, for clients that do not send If-Match.
    pub version: Option<i32>,
}

impl ChangedTicket {
    /// Parses a PUT's body.
    ///
    /// # Errors
    /// 422 with every invalid field.
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
    /// A [`NewTicket`]'s schema plus a version.
    fn schema() -> RefOr<Schema> {
        let mut schema = NewTicket::schema();
        if let RefOr::T(Schema::Object(object)) = &mut schema {
            let version = ObjectBuilder::new()
                .schema_type(Type::Integer)
                .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int32)))
                .minimum(Some(1))
                .description(Some(
                    "The version that the change is based on, for clients that do not send If-Match.",
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

    /// The columns of a ticket that the seller does not set.
    const SET_HERE: &[&str] = &["id", "version", "created_at", "updated_at", "seller"];

    #[test]
    fn requests_with_equal_values_are_the_same_however_they_are_written() {
        let canonical = |body: &'static str| {
            NewTicket::parse(Fields::parse(body.into()).unwrap()).unwrap().canonical().unwrap()
        };
        let given = canonical(r#"{"title":"Concert","price":20.5}"#);
        assert_eq!(given, canonical("{ \"price\": 2050e-2, \"title\": \" Concert \" }"));
        assert_ne!(given, canonical(r#"{"title":"Concert","price":20.51}"#));
        assert_ne!(given, canonical(r#"{"title":"concert","price":20.5}"#));
    }

    #[test]
    fn requests_compare_as_in_the_previous_release() {
        let new =
            NewTicket::parse(Fields::parse(r#"{"title":"Concert","price":1}"#.into()).unwrap());
        assert_eq!(new.unwrap().canonical().unwrap(), "Concert\u{0}1.00");
    }

    #[test]
    fn every_column_of_a_ticket_is_set_either_by_the_seller_or_by_the_service() {
        let mut made = [NewTicket::NAMES, SET_HERE].concat();
        let mut whole = Ticket::NAMES.to_vec();
        made.sort_unstable();
        whole.sort_unstable();
        assert_eq!(made, whole);
    }
}
