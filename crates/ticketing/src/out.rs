//! What the tools print for a person or the next program.

use std::{
    fmt::Arguments,
    io::{self, Write},
    process,
};

/// Prints a line. Ends the process in peace when nobody reads any more, as in `listen | head`.
pub(crate) fn line(text: Arguments<'_>) {
    let mut out = io::stdout().lock();
    if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
        process::exit(0);
    }
}

/// Like `println!`, by [`line`].
macro_rules! say {
    ($($text:tt)*) => { $crate::out::line(format_args!($($text)*)) };
}
pub(crate) use say;
