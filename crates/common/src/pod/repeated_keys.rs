//! Finds keys that occur twice in one object of a JSON document. Serde keeps the last one, other
//! readers the first, so one reader would miss what another checks.

use std::{collections::BTreeSet, fmt};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// Returns the keys that occur more than once in one object, at any depth, each by its path, such
/// as `seats.0.row`. Stops at invalid JSON, at nesting beyond 128 levels, and at numbers beyond a
/// float's range: no field of a request accepts those.
pub(super) fn repeated_keys(json: &[u8]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let value = Value { path: "", found: &mut found };
    let _ = value.deserialize(&mut serde_json::Deserializer::from_slice(json));
    found
}

/// A value at a path.
struct Value<'a> {
    path: &'a str,
    found: &'a mut BTreeSet<String>,
}

impl Value<'_> {
    fn below(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut keys = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let path = self.below(&key);
            map.next_value_seed(Value { path: &path, found: self.found })?;
            if !keys.insert(key) {
                self.found.insert(path);
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut index = 0_usize;
        loop {
            let path = self.below(&index.to_string());
            if seq.next_element_seed(Value { path: &path, found: self.found })?.is_none() {
                return Ok(());
            }
            index += 1;
        }
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_occurs_twice_in_an_object_is_found_at_any_depth() {
        for (json, keys) in [
            (r#"{"a":1,"b":2}"#, vec![]),
            (r#"{"a":1,"b":{"a":1},"c":[{"a":1},{"a":1}]}"#, vec![]),
            (r#"{"a":1,"a":1}"#, vec!["a"]),
            (r#"{"a":1,"\u0061":1}"#, vec!["a"]),
            (r#"{"a":{"b":[0,{"c":1.5,"c":null}]},"d":1,"d":2,"d":3}"#, vec!["a.b.1.c", "d"]),
            (r#"{"a":{"a":1,"a":1},"a":true}"#, vec!["a", "a.a"]),
        ] {
            let found: Vec<String> = repeated_keys(json.as_bytes()).into_iter().collect();
            assert_eq!(found, keys, "{json}");
        }
    }
}
