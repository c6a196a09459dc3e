//! The names that a ticket's fields had before release 0.1.0 (docs/adr/0033). Events of those
//! releases stay readable, and their listeners can read this release's events, which carry both
//! names.

use std::fmt;

use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, IntoDeserializer, MapAccess, Visitor},
    forward_to_deserialize_any,
};

/// Each old name and its replacement.
pub(super) const OLD_NAMES: [(&str, &str); 3] =
    [("created_at", "createdAt"), ("updated_at", "updatedAt"), ("order_id", "orderId")];

/// Returns a field's current name, and whether the given one is the old one.
pub(super) fn current(name: &str) -> Option<(&'static str, bool)> {
    OLD_NAMES
        .iter()
        .find(|(old, new)| [*old, *new].contains(&name))
        .map(|(old, new)| (*new, name == *old))
}

/// The names met so far in an object, to find fields that come again under their other name.
#[derive(Default)]
pub(super) struct Met(Vec<(&'static str, bool)>);

impl Met {
    /// Returns whether the field came before under its other name. The first of the two counts.
    pub(super) fn came_before(&mut self, (name, is_old): (&'static str, bool)) -> bool {
        let before = self.0.contains(&(name, !is_old));
        self.0.push((name, is_old));
        before
    }
}

/// Deserializes structs whose fields may have either name, or both.
pub(super) struct EitherName<T>(pub(super) T);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for EitherName<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_any(EitherName(visitor))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_struct(name, fields, EitherName(visitor))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for EitherName<V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(formatter)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Renamed { map, met: Met::default() })
    }
}

struct Renamed<A> {
    map: A,
    met: Met,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Renamed<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        while let Some(name) = self.map.next_key::<String>()? {
            let Some(current) = current(&name) else {
                return seed.deserialize(name.into_deserializer()).map(Some);
            };
            if !self.met.came_before(current) {
                return seed.deserialize(current.0.into_deserializer()).map(Some);
            }
            self.map.next_value::<IgnoredAny>()?;
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}
