//! The console's page in a real browser, and the pictures of it in the documentation:
//!
//! ```sh
//! SCREENSHOTS=$PWD/docs/console cargo test --workspace --test system page::
//! ```

use std::{env, fs, path::Path};

use embedded::{Chromium, chromium, silent};
use serde_json::{Value, json};
use testkit::client;
use thirtyfour::{By, Capabilities, WebDriver};
use tokio::time::{Instant, sleep};

use crate::{
    harness::{PATIENCE, POLL_INTERVAL},
    up::Place,
};

/// Where pictures are saved. Without it they are taken, and not kept.
const SCREENSHOTS: &str = "SCREENSHOTS";
/// The size of a picture in pixels, and the most bytes of a saved one.
const PIXELS: (u32, u32) = (1200, 680);
const LARGEST: usize = 150_000;

/// The page of a running system.
struct Page {
    driver: WebDriver,
    /// The URL for commands of Chromium's own protocol.
    devtools: String,
}

impl Page {
    async fn open(chromium: &Chromium, url: &str) -> Self {
        let capabilities: Capabilities = serde_json::from_str(&chromium.capabilities).unwrap();
        let driver = WebDriver::new(&chromium.url, capabilities).await.unwrap();
        let devtools = format!("{}/session/{}/goog/cdp/execute", chromium.url, driver.session_id());
        let page = Self { driver, devtools };
        let (width, height) = PIXELS;
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        page.tell_chromium("Emulation.setDeviceMetricsOverride", size).await;
        page.tell_chromium("Emulation.setScrollbarsHidden", json!({ "hidden": true })).await;
        page.driver.goto(url).await.unwrap();
        page
    }

    async fn tell_chromium(&self, command: &str, parameters: Value) {
        let body = json!({ "cmd": command, "params": parameters });
        let answer = client().post(&self.devtools).json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{command}: {}", answer.text().await.unwrap());
    }

    /// Takes a picture that begins at this element, in each color scheme.
    async fn picture(&self, name: &str, of: &str) {
        let script = format!("document.querySelector('{of}').scrollIntoView(true);");
        self.driver.execute(script, Vec::new()).await.unwrap();
        for scheme in ["light", "dark"] {
            let media = json!({ "features": [
                { "name": "prefers-color-scheme", "value": scheme },
                { "name": "prefers-reduced-motion", "value": "reduce" },
            ] });
            self.tell_chromium("Emulation.setEmulatedMedia", media).await;
            let picture = self.driver.screenshot_as_png().await.unwrap();
            if let Some(folder) = env::var_os(SCREENSHOTS) {
                assert!(picture.len() <= LARGEST, "{name} has {} bytes", picture.len());
                fs::write(Path::new(&folder).join(format!("{name}-{scheme}.png")), picture)
                    .unwrap();
            }
        }
    }

    async fn text(&self, selector: &str) -> String {
        self.driver.find(By::Css(selector)).await.unwrap().text().await.unwrap()
    }

    async fn until(&self, selector: &str, words: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = self.text(selector).await;
            if text.contains(words) {
                return;
            }
            assert!(Instant::now() < deadline, "{selector} never said {words:?}: {text}");
            sleep(POLL_INTERVAL).await;
        }
    }

    async fn click(&self, selector: &str) {
        self.driver.find(By::Css(selector)).await.unwrap().click().await.unwrap();
    }

    /// Checks the timeline of the posted ticket, whose id the form for orders now has.
    async fn shows_a_timeline(&self) {
        let id = self.driver.find(By::Css("#ticket-id")).await.unwrap();
        let id = id.prop("value").await.unwrap().unwrap();
        self.set("#timeline-id", &id).await;
        let deadline = Instant::now() + PATIENCE;
        while !self.text("#timeline-said").await.contains("1 applied") {
            assert!(Instant::now() < deadline, "{}", self.text("#timeline-said").await);
            self.click("#timeline-search button").await;
            self.until("#timeline-said", &id).await;
        }
        self.click("#totals-check button").await;
        self.until("#totals-said", "Nothing is lost: the newest event is accounted for.").await;
        self.until("#timeline", "committed").await;
        self.until("#timeline", "published").await;
        self.until("#timeline", "applied by orders-").await;
    }

    /// Cuts a replica off from NATS for a while, and checks that the page reports the outcome.
    async fn cuts_off_a_replica(&self) {
        self.until("#summary", "Everything is ready.").await;
        self.set("#break-part", "orders-2").await;
        self.click("#break [value=cut]").await;
        self.until("#break output", "cut orders-2 off from NATS for 20 s").await;
        self.until("#summary", "orders-2 is disconnected from NATS").await;
        self.until("#experiments li:first-child", "orders-2 reached NATS again").await;
        self.until("#experiments li:first-child", "Back to normal after").await;
        self.until("#summary", "Everything is ready.").await;
        self.picture("experiments", "#outcomes").await;
    }

    /// Finds the only dead letter of orders, checks its bytes, and discards it after a preview.
    async fn handles_dead_letters(&self) {
        self.until("#letters-counted", "orders has 1 dead letter").await;
        self.until("#letter-groups", "not a CloudEvent").await;
        self.set("#letters-text", "no event").await;
        self.click("#letters-search button").await;
        self.until("#letters-status", "1 shown: text “no event”").await;
        self.click("#letters button").await;
        self.until("#bytes-hex", "6e 6f 20 65 76 65 6e 74").await;
        self.until("#bytes-text", "no event").await;
        self.click("#bytes-close").await;
        // Without an operator's name nothing happens.
        self.click("#bulk-discard").await;
        self.until("#letters-said", "Enter your name").await;
        self.set("#operator", "<b>Ada</b>").await;
        self.click("#bulk-discard").await;
        self.until("#confirm-words", "deletes 1 dead letter (text “no event”) of orders").await;
        self.click("#confirm-no").await;
        self.until("#letters", "not a CloudEvent").await;
        self.click("#bulk-discard").await;
        self.until("#confirm-words", "permanently").await;
        self.click("#confirm-yes").await;
        self.until("#letters-said", "Discarded: 1.").await;
        self.until("#letters-counted", "orders has no dead letters").await;
        self.until("#letter-acts", "<b>Ada</b>").await;
        self.until("#letter-acts", "discard").await;
    }

    async fn set(&self, selector: &str, value: &str) {
        let script = "arguments[0].value = arguments[1];";
        let element = self.driver.find(By::Css(selector)).await.unwrap().to_json().unwrap();
        self.driver.execute(script, vec![element, value.into()]).await.unwrap();
    }
}

#[tokio::test]
async fn the_page_works_in_a_browser_and_shows_frozen_parts_in_red() {
    if !chromium::is_possible() {
        eprintln!("this machine has neither Chromium nor apt: not tested");
        return;
    }
    let place = Place::new();
    let (running, _) = place.up(&["--replicas", "2", "--cuttable"]).await;
    testkit::install_crypto();
    let chromium = Chromium::start(&silent()).await.unwrap();
    let page = Page::open(&chromium, &place.console().await).await;

    page.until("#summary", "Everything is ready.").await;
    page.set("#ticket [name=title]", "<img src=x onerror=alert(1)>").await;
    page.click("#ticket button").await;
    page.until("#ticket output", "201").await;
    page.shows_a_timeline().await;
    page.set("#load [name=seconds]", "1").await;
    page.click("#load button").await;
    page.until("#verdict", "Nothing is lost: all").await;
    page.set("#load [name=seconds]", "20").await;
    page.set("#load [name=rate]", "20").await;
    page.click("#load button").await;
    page.set("#break-part", "orders-1").await;
    page.click("#break [value=freeze]").await;
    page.until("#summary", "orders-1 is frozen").await;
    page.until(".step.bad", "POST to orders").await;
    page.picture("flow", "header").await;
    page.click("#break [value=thaw]").await;
    page.cuts_off_a_replica().await;
    page.click("#publish button").await;
    page.until("#publish output", "201 – sequence #").await;
    page.set("#break-stream", "TICKETS").await;
    page.click("#break [value=poison]").await;
    page.until("#summary", "1 dead letter").await;
    page.handles_dead_letters().await;
    // A script in an event's content would have opened an alert.
    assert!(page.driver.get_alert_text().await.is_err());
    page.driver.quit().await.unwrap();
    assert!(running.interrupt().await.0.success());
}
