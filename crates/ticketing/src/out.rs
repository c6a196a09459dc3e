//! Standard output of the tools.

use common::bus::shown_json;
use std::{
    fmt::Arguments,
    io::{self, Write},
    process,
};

/// Prints lines, escaping every character that could control a terminal, as JSON does. Exits the process with
/// success once nobody reads its output, as in `listen | head`.
pub(crate) fn line(text: Arguments<'_>) {
    let mut out = io::stdout().lock();
    let text = text.to_string();
    if writeln!(out, "{}", shown_json(&text)).and_then(|()| out.flush()).is_err() {
        process::exit(0);
    }
}

/// Like `println!`, by [`line`].
macro_rules! say {
    ($($text:tt)*) => { $crate::out::line(format_args!($($text)*)) };
}
pub(crate) use say;
