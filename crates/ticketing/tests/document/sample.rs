//! Matches a line of a sample with a line of output.

use std::collections::BTreeMap;

use regex::Regex;

/// The pattern for a line of a sample: `…` matches any text; a time, an age, a port or a process id matches any
/// other; an id or a `#17` matches any that is not known yet, and the same one from then on.
fn pattern(line: &str) -> (Regex, Vec<String>) {
    let special = [
        r"(?<id>[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|#\d+)",
        r"(?<time>\d{4}-\d\d-\d\dT[\d:.]+Z|\b\d\d:\d\d:\d\d\b)",
        r"(?<age>\d+\.\d+ s\b)",
        r"(?<number>process \d+|(127\.0\.0\.1|localhost):\d+)",
        r"(?<any>…)",
        r"(?<space>\s+)",
    ];
    let special = Regex::new(&special.join("|")).unwrap();
    let (mut pattern, mut ids, mut from) = ("^".to_owned(), Vec::new(), 0);
    for found in special.captures_iter(line) {
        let whole = found.get(0).unwrap();
        pattern += &regex::escape(&line[from..whole.start()]);
        from = whole.end();
        let text = whole.as_str();
        if found.name("id").is_some() {
            ids.push(text.to_owned());
            pattern += if text.starts_with('#') { r"(#\d+)" } else { "([0-9a-f-]{36})" };
        } else if found.name("number").is_some() {
            let name = text.trim_end_matches(|last: char| last.is_ascii_digit());
            pattern += &format!(r"{}\d+", regex::escape(name));
        } else if found.name("time").is_some() {
            pattern += r"[\dT:.-]+Z?";
        } else if found.name("age").is_some() {
            pattern += r"\d+\.\d+ s";
        } else {
            pattern += if found.name("any").is_some() { ".*" } else { r"\s+" };
        }
    }
    pattern += &regex::escape(&line[from..]);
    (Regex::new(&(pattern + r"\s*$")).unwrap(), ids)
}

/// Which real ids and numbers those of the samples stand for. Two never stand for the same one.
#[derive(Debug, Default, Clone)]
pub(super) struct Known(BTreeMap<String, String>);

impl Known {
    /// Whether a line matches a sample, given the known ids. Remembers new ones.
    pub(super) fn matches(&mut self, sample: &str, line: &str) -> bool {
        let (pattern, ids) = pattern(sample);
        let Some(found) = pattern.captures(line) else { return false };
        let mut known = self.0.clone();
        for (id, actual) in ids.iter().zip(found.iter().skip(1).flatten()) {
            let actual = actual.as_str();
            let fits = match known.get(id) {
                Some(before) => before == actual,
                None => !known.values().any(|other| other == actual),
            };
            if !fits {
                return false;
            }
            known.insert(id.clone(), actual.to_owned());
        }
        self.0 = known;
        true
    }
}
