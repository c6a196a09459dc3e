//! `nkey`: creates a key pair for a NATS user, or prints the public key of an existing one.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Args;
use common::bus::Seed;

use crate::out::say;

/// The file of the private key.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// The file with the seed, which is the private key. Created if it does not exist.
    #[arg(long, value_name = "FILE")]
    seed_file: PathBuf,
}

/// Prints the public key of the seed in the file; creates the file if it does not exist.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let file = &options.seed_file;
    let seed = match fs::read_to_string(file) {
        Ok(text) => text.parse().with_context(|| file.display().to_string())?,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            make(file).with_context(|| format!("cannot write {}", file.display()))?
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display()))?,
    };
    say!("{}", seed.public_key()?);
    Ok(())
}

/// Writes a new seed to a file that only its owner can access.
fn make(file: &Path) -> anyhow::Result<Seed> {
    let seed = Seed::generate()?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    writeln!(file, "{}", seed.expose())?;
    Ok(seed)
}
