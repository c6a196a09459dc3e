//! A headless Chromium, to see a page as a user's browser renders it. Uses Debian's: the installed
//! one, or one fetched once with apt, without root and without installing anything. It is driven
//! through WebDriver.

use std::{env, fs, path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use tokio::{
    net::TcpStream,
    process::Command as Tool,
    time::{Instant, sleep},
};

use crate::{
    Progress, cache, ports,
    process::{Child, Command},
};

/// The folder in the cache. Change it to fetch a newer version.
const NAME: &str = "chromium-1";
/// Downloads Chromium and its missing dependencies, and unpacks them here. apt checks each package
/// against Debian's signed lists.
const FETCH: &str = r#"set -eu
export LC_ALL=C
packages=$(apt-get install --simulate --no-install-recommends chromium-driver |
    sed -n 's/^Inst \([^ ]*\) \(\[[^]]*\] \)\{0,1\}(\([^ ]*\) .*/\1=\3/p')
test -n "$packages"
apt-get download --quiet $packages
for package in *.deb; do
    dpkg-deb --extract "$package" .
    rm "$package"
done"#;
/// How long chromedriver may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How often to check whether it has started.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A running chromedriver, which starts a Chromium for each session. Killed when dropped or when
/// this process dies. A Chromium ends with its chromedriver, because their pipe closes.
#[derive(Debug)]
pub struct Chromium {
    /// The URL of WebDriver.
    pub url: String,
    /// The WebDriver capabilities that a session must request.
    pub capabilities: String,
    _child: Child,
}

impl Chromium {
    /// Starts chromedriver.
    ///
    /// # Errors
    /// If the machine has none, and none can be fetched.
    pub async fn start(progress: &Progress) -> anyhow::Result<Self> {
        let Found { driver, browser, libraries } = find(progress).await?;
        let port = ports::free()?;
        let child = Command::new(&driver)
            .args([format!("--port={port}")])
            .env("LD_LIBRARY_PATH", libraries)
            .quiet()
            .spawn()?;
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            ensure!(child.exited().is_none(), "{} exited during startup", driver.display());
            ensure!(Instant::now() < deadline, "{} was not ready in time", driver.display());
            sleep(LOOK_EVERY).await;
        }
        // It shows only the test's own pages, and has no sandbox when run as root.
        let capabilities = format!(
            r#"{{"browserName":"chrome","goog:chromeOptions":{{"binary":{:?},"args":["--headless","--no-sandbox",
            "--disable-gpu","--disable-dev-shm-usage","--remote-debugging-pipe"]}}}}"#,
            browser.display().to_string()
        );
        Ok(Self { url: format!("http://127.0.0.1:{port}"), capabilities, _child: child })
    }
}

/// Returns whether this machine has Chromium, or apt to fetch it.
#[must_use]
pub fn is_possible() -> bool {
    let has = |programs: [&str; 2]| programs.iter().all(|program| on_path(program).is_some());
    has(["chromium", "chromedriver"]) || has(["apt-get", "dpkg-deb"])
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

struct Found {
    driver: PathBuf,
    browser: PathBuf,
    /// Folders, separated by colons.
    libraries: String,
}

async fn find(progress: &Progress) -> anyhow::Result<Found> {
    if let (Some(driver), Some(browser)) = (on_path("chromedriver"), on_path("chromium")) {
        return Ok(Found { driver, browser, libraries: String::new() });
    }
    ensure!(is_possible(), "there is no chromium on this machine, and no apt to fetch it with");
    let folder = cache::filled(NAME, |folder| async move {
        progress("fetching Chromium with apt, once");
        fs::create_dir_all(&folder)?;
        let fetched = Tool::new("sh").args(["-c", FETCH]).current_dir(&folder).output().await;
        let fetched = fetched.context("cannot run sh")?;
        ensure!(
            fetched.status.success(),
            "apt could not fetch Chromium; does it need `apt-get update`?\n{}",
            String::from_utf8_lossy(&fetched.stderr)
        );
        Ok(())
    })
    .await?;
    let machine = format!("{}-linux-gnu", env::consts::ARCH);
    let libraries = folder.join("usr/lib").join(machine);
    let libraries = format!("{0}:{0}/pulseaudio", libraries.display());
    let (driver, browser) =
        (folder.join("usr/bin/chromedriver"), folder.join("usr/lib/chromium/chromium"));
    Ok(Found { driver, browser, libraries })
}
