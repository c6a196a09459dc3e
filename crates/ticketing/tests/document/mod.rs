//! Runs the commands of a document in order, exactly as a reader would type them, and compares the
//! output of each terminal with the document's samples.
//!
//! - A "```sh" block is pasted as a whole. `# runs until Ctrl-C` marks one that keeps running, and
//!   `# is refused` one that must fail.
//! - A line that begins with `**Terminal 2**` selects the terminal for the next blocks. If it continues
//!   with "press Ctrl-C", "press Ctrl-Z" or "type `rs`", that is done there.
//! - Each line of a "```text" block must appear in that terminal, in this order; other lines may come
//!   between them. See [`sample`] for what a line matches. A read-only command is repeated until it shows
//!   its sample.
//! - "```sh skip" and "```text skip" are only for readers.

mod sample;
mod terminal;

use std::{collections::HashMap, fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use embedded::process::{Command, Signal};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use self::{sample::Known, terminal::Terminal};

/// The repository's root.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// How long a terminal may take to show a sample.
const SHOWN: Duration = Duration::from_secs(180);
/// How long a program that exits on its own may take before the next command is typed.
const FREE: Duration = Duration::from_secs(60);
/// The pause before a read-only command is repeated.
const AGAIN: Duration = Duration::from_millis(200);
/// The markers of a command that runs until Ctrl-C, and of one that must fail.
const STAYS: &str = "# runs until Ctrl-C";
const REFUSED: &str = "# is refused";
/// The numbers given to terminals that a document does not number.
const UNNUMBERED: usize = 100;

/// One instruction of a document, or one sample.
#[derive(Debug)]
enum Step {
    Type { block: String },
    Press { signal: Signal },
    TypeInto { text: String },
    See { lines: Vec<String> },
}

/// Parses a document: each step, with the number of its terminal if it has one.
fn steps(document: &str) -> Vec<(Option<usize>, Step)> {
    let (mut steps, mut terminal) = (Vec::new(), None);
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        if let Some(kind) = line.strip_prefix("```") {
            let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            match kind {
                "sh" => steps.push((terminal, Step::Type { block: block.join("\n") })),
                "text" => {
                    let lines = block.iter().filter(|line| !matches!(**line, "" | "…"));
                    let lines = lines.map(ToString::to_string).collect();
                    steps.push((terminal, Step::See { lines }));
                }
                _ => {}
            }
        } else if let Some(rest) = line.strip_prefix("**Terminal ") {
            let (number, rest) = rest.split_once("**").unwrap();
            terminal = Some(number.parse().unwrap());
            let step = if rest.contains("press Ctrl-C") {
                Step::Press { signal: Signal::INT }
            } else if rest.contains("press Ctrl-Z") {
                Step::Press { signal: Signal::STOP }
            } else if let Some((_, text)) = rest.split_once("type `") {
                Step::TypeInto { text: text.split('`').next().unwrap().to_owned() }
            } else {
                continue;
            };
            steps.push((terminal, step));
        } else {
            assert!(!line.to_lowercase().contains("press ctrl"), "in which terminal? {line}");
        }
    }
    steps
}

/// A reader who follows a document, with a separate data folder.
struct Reader {
    data: TempDir,
    terminals: HashMap<usize, Terminal>,
    /// The terminals in which something keeps running, in the order of their start.
    started: Vec<usize>,
    known: Known,
}

/// Follows a document of the repository and compares the output. Returns the number of commands.
pub(crate) async fn follow(path: &str) -> usize {
    let document = fs::read_to_string(Path::new(ROOT).join(path)).unwrap();
    // A folder that Postgres's user can enter too.
    let open = fs::Permissions::from_mode(0o755);
    let data = tempfile::Builder::new().permissions(open).tempdir().unwrap();
    let (terminals, started, known) = (HashMap::new(), Vec::new(), Known::default());
    let mut reader = Reader { data, terminals, started, known };
    let (mut commands, mut last) = (0, 0);
    for (terminal, step) in steps(&document) {
        let stays = matches!(&step, Step::Type { block } if block.contains(STAYS));
        let number = match terminal {
            Some(number) => number,
            None if stays => UNNUMBERED + commands,
            None => last,
        };
        commands += usize::from(matches!(step, Step::Type { .. }));
        last = terminal.unwrap_or_default();
        match step {
            Step::Type { block } => reader.run(number, block).await,
            Step::See { lines } => reader.see(number, &lines).await,
            Step::Press { signal } => {
                reader.terminals[&number].signal(signal);
                if signal == Signal::INT {
                    reader.terminals.get_mut(&number).unwrap().end().await;
                }
            }
            Step::TypeInto { text } if text == "fg" => {
                reader.terminals[&number].signal(Signal::CONT)
            }
            Step::TypeInto { text } => {
                let terminal = reader.terminals.get_mut(&number).unwrap();
                terminal.running.as_mut().unwrap().write_line(&text).unwrap();
            }
        }
    }
    reader.leave().await;
    commands
}

impl Reader {
    async fn run(&mut self, number: usize, block: String) {
        let child = self.shell(number, &block);
        let terminal = self.terminals.entry(number).or_default();
        // Nothing can be typed while something else runs in this terminal.
        let free = timeout(FREE, terminal.end()).await;
        free.unwrap_or_else(|_| panic!("terminal {number} is busy: {terminal:#?}"));
        terminal.running = Some(child.spawn().unwrap());
        (terminal.block, terminal.seen) = (block, terminal.said.len());
        if terminal.block.contains(STAYS) {
            self.started.push(number);
            return terminal.until_ready().await;
        }
        let failed = terminal.end().await == terminal.block.contains(REFUSED);
        // A read-only command may run too early: the sample that follows decides.
        terminal.premature = failed && terminal.only_looks();
        let said = &terminal.said[terminal.seen..];
        assert!(!failed || terminal.premature, "{}\n{said:#?}", terminal.block);
    }

    /// Runs a block in the repository's root as a reader's terminal would: variables set by one block exist
    /// in the next. The differences are a separate data folder and, if another process has a default port,
    /// the port that the system uses instead.
    fn shell(&self, number: usize, block: &str) -> Command {
        let data = self.data.path();
        let block = block.replace(".ticketing", &data.to_string_lossy());
        // A program that keeps running replaces the shell, so that it dies with this test.
        let stays = block.contains(STAYS);
        let run = if stays { "exec " } else { "trap 'export -p > \"$VARIABLES\"' EXIT\n" };
        // The variables that `cargo test` sets would make `cargo run` rebuild dependencies.
        // Both outputs in one, as a terminal shows them.
        let clean = "exec 2>&1; unset ${!CARGO_PKG_@} ${!CARGO_MANIFEST_@}\n";
        let load = "set -a; if [ -f \"$VARIABLES\" ]; then . \"$VARIABLES\"; fi\n";
        let script = format!("{clean}{load}{run}{}", with_ports(&block, data));
        Command::new("bash")
            .args(["-euo", "pipefail", "-c", &script])
            .current_dir(ROOT)
            .env("TICKETING_DATA", data)
            .env("VARIABLES", data.join(format!("variables-{number}")))
            .with_input()
            .piped()
    }

    async fn see(&mut self, number: usize, lines: &[String]) {
        let deadline = Instant::now() + SHOWN;
        loop {
            let terminal = self.terminals.get_mut(&number).unwrap();
            let Some(missing) = terminal.missing(lines, &mut self.known) else { return };
            let left = deadline.saturating_duration_since(Instant::now());
            let line = async { terminal.running.as_mut()?.line().await };
            if let Ok(Some(line)) = timeout(left, line).await {
                terminal.said.push(line);
                continue;
            }
            let block = terminal.block.clone();
            assert!(
                terminal.only_looks() && !left.is_zero(),
                "terminal {number} does not show {missing:?}\n{:#?}\n{:#?}",
                &terminal.said[terminal.seen..],
                self.known
            );
            sleep(AGAIN).await;
            self.run(number, block).await;
        }
    }

    /// Stops what still runs, in reverse order.
    async fn leave(mut self) {
        for number in self.started.iter().rev() {
            let terminal = self.terminals.get_mut(number).unwrap();
            terminal.signal(Signal::CONT);
            terminal.signal(Signal::INT);
            terminal.end().await;
        }
        for terminal in self.terminals.values() {
            assert!(!terminal.premature, "{terminal:#?}");
            assert!(!terminal.said.join("\n").contains("panicked"), "{terminal:#?}");
        }
        let left = self.data.path().join("stack.json");
        assert!(!left.exists(), "the system has not stopped cleanly");
    }
}

fn with_ports(block: &str, data: &Path) -> String {
    let Ok(stack) = fs::read(data.join("stack.json")) else { return block.to_owned() };
    let stack: serde_json::Value = serde_json::from_slice(&stack).unwrap();
    let services = &stack["services"];
    let usual = [
        (&services["tickets-1"], 3000),
        (&services["orders-1"], 3001),
        (&stack["monitor_url"], 8222),
        (&stack["console_url"], 3900),
    ];
    usual.iter().fold(block.to_owned(), |block, (address, port)| {
        // A part that is not up yet has no port.
        let Some(taken) = address.as_str().and_then(|at| at.rsplit(':').next()) else {
            return block;
        };
        block.replace(&format!("localhost:{port}"), &format!("localhost:{taken}"))
    })
}
