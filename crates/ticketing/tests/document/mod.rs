//! Does what a document tells its reader to type, in order, and compares what each terminal shows
//! with the document's samples. What a reader types is what runs.
//!
//! - A block that begins with "```sh" is pasted at once. `# runs until Ctrl-C` marks one that stays, and
//!   `# is refused` one that must fail.
//! - A line that begins with `**Terminal 2**` says where the next blocks are typed and shown. If it goes on
//!   with "press Ctrl-C", "press Ctrl-Z" or "type `rs`", that is done there.
//! - Each line of a block that begins with "```text" must be shown in that terminal, in this order; other
//!   lines may stand between them. See [`sample`] for what a line matches. A command that changes nothing
//!   is repeated until it shows its sample.
//! - "```sh skip" and "```text skip" are for readers alone.

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
/// How long a program that ends by itself may take until the next command is typed.
const FREE: Duration = Duration::from_secs(60);
/// How often a command that changes nothing is repeated.
const AGAIN: Duration = Duration::from_millis(200);
/// Marks a command that runs until Ctrl-C, and one that must fail.
const STAYS: &str = "# runs until Ctrl-C";
const REFUSED: &str = "# is refused";
/// The numbers of terminals that a document does not number.
const UNNUMBERED: usize = 100;

/// What a document tells its reader to do, or to see.
#[derive(Debug)]
enum Step {
    Type { block: String },
    Press { signal: Signal },
    TypeInto { text: String },
    See { lines: Vec<String> },
}

/// Reads a document: each step with the number of its terminal, if it has one.
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

/// A reader who does what a document says, with a data folder of their own.
struct Reader {
    data: TempDir,
    terminals: HashMap<usize, Terminal>,
    /// The terminals in which something stays, in the order in which it was started.
    started: Vec<usize>,
    known: Known,
}

/// Does everything that a document of the repository says, and compares what is shown. Returns the number
/// of commands.
pub(crate) async fn follow(path: &str) -> usize {
    let document = fs::read_to_string(Path::new(ROOT).join(path)).unwrap();
    // A folder that Postgres's user can enter as well.
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
        // Nobody can type while something else runs.
        let free = timeout(FREE, terminal.end()).await;
        free.unwrap_or_else(|_| panic!("terminal {number} is busy: {terminal:#?}"));
        terminal.running = Some(child.spawn().unwrap());
        (terminal.block, terminal.seen) = (block, terminal.said.len());
        if terminal.block.contains(STAYS) {
            self.started.push(number);
            return terminal.until_ready().await;
        }
        let failed = terminal.end().await == terminal.block.contains(REFUSED);
        // One that only looks may look too early: the sample that follows decides.
        terminal.looked_in_vain = failed && terminal.only_looks();
        let said = &terminal.said[terminal.seen..];
        assert!(!failed || terminal.looked_in_vain, "{}\n{said:#?}", terminal.block);
    }

    /// Runs a block in the repository's root as a reader's terminal does: variables set by one block are
    /// there in the next. The differences are a data folder of the test's own and, if another process has a
    /// usual port, the port that the system took instead.
    fn shell(&self, number: usize, block: &str) -> Command {
        let data = self.data.path();
        let block = block.replace(".ticketing", &data.to_string_lossy());
        // What stays takes the shell's place, so that it dies with this test.
        let stays = block.contains(STAYS);
        let run = if stays { "exec " } else { "trap 'export -p > \"$VARIABLES\"' EXIT\n" };
        // What `cargo test` sets makes `cargo run` build dependencies anew.
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

    /// Ends what still runs, the last first.
    async fn leave(mut self) {
        for number in self.started.iter().rev() {
            let terminal = self.terminals.get_mut(number).unwrap();
            terminal.signal(Signal::CONT);
            terminal.signal(Signal::INT);
            terminal.end().await;
        }
        for terminal in self.terminals.values() {
            assert!(!terminal.looked_in_vain, "{terminal:#?}");
            assert!(!terminal.said.join("\n").contains("panicked"), "{terminal:#?}");
        }
        let left = self.data.path().join("stack.json");
        assert!(!left.exists(), "the system has stopped in good order");
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
        // What is not up yet has none.
        let Some(taken) = address.as_str().and_then(|at| at.rsplit(':').next()) else {
            return block;
        };
        block.replace(&format!("localhost:{port}"), &format!("localhost:{taken}"))
    })
}
