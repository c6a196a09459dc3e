//! What the tools print for a person or the next program.

use common::bus::shown_json;
use std::{
    fmt::Arguments,
    io::{self, Write},
    process,
};

/// Prints lines, of which every character that a terminal acts on is shown as JSON writes it. Ends the process in peace when nobody reads any more, as in `listen | head`.
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
