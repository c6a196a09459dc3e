//! The console's page in a real browser.

use embedded::{Chromium, chromium, silent};
use thirtyfour::{By, Capabilities, WebDriver};
use tokio::time::{Instant, sleep};

use crate::{
    harness::{PATIENCE, POLL_INTERVAL},
    up::Place,
};

/// The page of a system that is up.
struct Page {
    driver: WebDriver,
}

impl Page {
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

    async fn set(&self, selector: &str, value: &str) {
        let script = "arguments[0].value = arguments[1];";
        let element = self.driver.find(By::Css(selector)).await.unwrap().to_json().unwrap();
        self.driver.execute(script, vec![element, value.into()]).await.unwrap();
    }
}

#[tokio::test]
async fn the_page_works_in_a_browser_and_shows_in_red_what_is_frozen() {
    if !chromium::is_possible() {
        eprintln!("this machine has neither Chromium nor apt: not tested");
        return;
    }
    let place = Place::new();
    let (running, _) = place.up(&["--replicas", "2"]).await;
    testkit::install_crypto();
    let chromium = Chromium::start(&silent()).await.unwrap();
    let capabilities: Capabilities = serde_json::from_str(&chromium.capabilities).unwrap();
    let driver = WebDriver::new(&chromium.url, capabilities).await.unwrap();
    driver.goto(place.console().await).await.unwrap();
    let page = Page { driver };

    page.until("#summary", "Everything is ready.").await;
    page.set("#ticket [name=title]", "<img src=x onerror=alert(1)>").await;
    page.click("#ticket button").await;
    page.until("#ticket output", "201").await;
    page.set("#load [name=seconds]", "1").await;
    page.click("#load button").await;
    page.until("#verdict", "Nothing is lost: all").await;
    page.set("#break-part", "orders-1").await;
    page.click("#break [value=freeze]").await;
    page.until("#summary", "orders-1 is frozen").await;
    page.until(".step.bad", "POST to orders").await;
    page.click("#break [value=thaw]").await;
    page.set("#break-stream", "TICKETS").await;
    page.click("#break [value=poison]").await;
    page.until("#summary", "1 dead letter").await;
    // A script in what came in an event would have opened one.
    assert!(page.driver.get_alert_text().await.is_err());
    page.driver.quit().await.unwrap();
    assert!(running.interrupt().await.0.success());
}
