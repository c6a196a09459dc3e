//! Metrics in Prometheus's text format, as far as the services use it.

use std::collections::BTreeMap;

/// How many samples of one answer are kept.
const MAX_SAMPLES: usize = 5_000;

/// One number, with its name and labels.
#[derive(Debug, Clone, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// The metrics of a process.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Samples(Vec<Sample>);

impl Samples {
    /// Reads the samples, and skips lines that it cannot parse.
    #[must_use]
    pub fn read(text: &str) -> Self {
        Self(text.lines().filter_map(sample).take(MAX_SAMPLES).collect())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The sum of the samples with this name and all these labels. `None` when there are none, or one
    /// is unknown to the process (NaN).
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = self.0.iter().filter(|sample| {
            let has = |(label, value): &(&str, &str)| {
                sample.labels.get(*label).is_some_and(|found| found == value)
            };
            sample.name == name && labels.iter().all(has)
        });
        let first = found.next()?.value;
        let sum = found.fold(first, |sum, sample| sum + sample.value);
        (!sum.is_nan()).then_some(sum)
    }

    /// The values that a label has among the samples of this name.
    pub fn label<'a>(&'a self, name: &'a str, label: &'a str) -> impl Iterator<Item = &'a str> {
        let of_name = self.0.iter().filter(move |sample| sample.name == name);
        of_name.filter_map(move |sample| sample.labels.get(label).map(String::as_str))
    }
}

/// `name{label="value",…} number`.
fn sample(line: &str) -> Option<Sample> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let name_end = line.find(|c: char| c == '{' || c.is_whitespace())?;
    let (name, rest) = line.split_at(name_end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// Labels up to the closing brace, and what is after it.
fn labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let (mut value, mut escaped, mut end) = (String::new(), false, None);
        for (at, c) in quoted.char_indices() {
            match (escaped, c) {
                (true, 'n') => value.push('\n'),
                (true, c) => value.push(c),
                (false, '\\') => {}
                (false, '"') => {
                    end = Some(at);
                    break;
                }
                (false, c) => value.push(c),
            }
            escaped = !escaped && c == '\\';
        }
        rest = &quoted[end? + 1..];
        labels.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_parsed_and_summed_by_their_labels() {
        let samples = Samples::read(
            "# HELP a b\na{group=\"x\"} 3\na{group=\"y\",o=\"q\\\"}\\\\ \\n\"} 4.5\na 1\nb NaN\n\
             not a sample\nc{broken=\"} 1\nc{} 7 1700000000\n",
        );
        assert_eq!(samples.sum("a", &[]), Some(8.5));
        assert_eq!(samples.sum("a", &[("group", "x")]), Some(3.0));
        assert_eq!(samples.sum("a", &[("o", "q\"}\\ \n")]), Some(4.5));
        assert_eq!(samples.sum("b", &[]), None);
        assert_eq!(samples.sum("c", &[]), Some(7.0));
        assert_eq!(samples.sum("d", &[]), None);
        assert_eq!(samples.label("a", "group").collect::<Vec<_>>(), ["x", "y"]);
    }
}
