//! A state exactly as an event carried it, field by field and digit by digit. A service that stores it this
//! way loses no field that a newer release of the publisher has added.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;
use sqlx::{
    Decode, Encode, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueRef},
    types::Json,
};

use super::{
    DecodeError, EventSet, Stream,
    names::{self, Met},
};

/// The events of `E`, each with its state as received.
#[derive(Debug, Clone)]
pub struct AsReceived<E> {
    /// The event, checked like any other.
    pub event: E,
    /// Its state.
    pub state: State,
}

impl<E: EventSet> EventSet for AsReceived<E> {
    const STREAM: &'static Stream = E::STREAM;
    const SUBJECTS: &'static [&'static str] = E::SUBJECTS;
    const SOURCES: &'static [&'static str] = E::SOURCES;

    fn decode(subject: &str, schema_version: u32, data: &str) -> Result<Self, DecodeError> {
        let event = E::decode(subject, schema_version, data)?;
        // An object, because the event was parsed from it.
        let state = serde_json::from_str(data).unwrap_or_default();
        Ok(Self { event, state })
    }
}

/// The fields of a JSON object in order, each with its text. Fields that had another name before
/// 0.1.0 get the current one.
#[derive(Debug, Clone, Default)]
pub struct State(Vec<(String, Box<RawValue>)>);

impl State {
    /// Serializes the state without these fields.
    ///
    /// # Errors
    /// Any error of the serializer.
    pub fn serialize_without<S: Serializer>(
        &self,
        fields: &[&str],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let kept = self.0.iter().filter(|(name, _)| !fields.contains(&name.as_str()));
        serializer.collect_map(kept.map(|(name, value)| (name, value)))
    }
}

/// Stored as `json`, which keeps the text unchanged.
impl Type<Postgres> for State {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("json")
    }

    fn compatible(of: &PgTypeInfo) -> bool {
        Json::<Self>::compatible(of)
    }
}

impl PgHasArrayType for State {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::array_of("json")
    }
}

impl Encode<'_, Postgres> for State {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend(serde_json::to_vec(self)?);
        Ok(IsNull::No)
    }
}

impl<'r> Decode<'r, Postgres> for State {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        Ok(serde_json::from_str(value.as_str()?)?)
    }
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.serialize_without(&[], serializer)
    }
}

impl<'de> Deserialize<'de> for State {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = State;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<State, A::Error> {
        let (mut fields, mut met) = (Vec::new(), Met::default());
        while let Some((mut name, mut value)) = map.next_entry::<String, Box<RawValue>>()? {
            if let Some(current) = names::current(&name) {
                if met.came_before(current) {
                    continue;
                }
                current.0.clone_into(&mut name);
            }
            // A hold has fields with old names too.
            if name == "hold"
                && let Ok(hold) = serde_json::from_str::<State>(value.get())
                && let Ok(hold) = serde_json::value::to_raw_value(&hold)
            {
                value = hold;
            }
            fields.push((name, value));
        }
        Ok(State(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::ticket::TicketEvent;

    #[test]
    fn a_state_given_as_an_array_is_refused() {
        let list = r#"["01936b2e-7c00-7000-8000-000000000001","Concert",20.50,1,"2026-01-02T03:04:05Z","2026-01-02T03:04:05Z"]"#;
        let error = AsReceived::<TicketEvent>::decode("ticket:updated", 1, list).unwrap_err();
        assert!(error.to_string().contains("invalid type: sequence"), "{error}");
    }

    #[test]
    fn an_unknown_field_is_kept_digit_for_digit_and_old_names_are_replaced() {
        let data = r#"{"seat":{"row":1.50,"n":"\u0000"},"id":"01936b2e-7c00-7000-8000-000000000001","title":"Concert","price":20.50,"version":1,"created_at":"2026-01-02T03:04:05Z","updated_at":"2026-01-02T03:04:05Z","updatedAt":"2026-01-02T03:04:05Z","hold":{"order_id":"01936b2e-7c00-7000-8000-0000000000a1","until":9,"status":"sold"}}"#;
        let read = AsReceived::<TicketEvent>::decode("ticket:updated", 1, data).unwrap();
        assert_eq!(
            serde_json::to_string(&read.state).unwrap(),
            r#"{"seat":{"row":1.50,"n":"\u0000"},"id":"01936b2e-7c00-7000-8000-000000000001","title":"Concert","price":20.50,"version":1,"createdAt":"2026-01-02T03:04:05Z","updatedAt":"2026-01-02T03:04:05Z","hold":{"orderId":"01936b2e-7c00-7000-8000-0000000000a1","until":9,"status":"sold"}}"#
        );
    }
}
