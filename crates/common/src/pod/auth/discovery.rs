//! Fetches an issuer's keys (OpenID Connect Discovery 1.0, section 4). To keep third parties out,
//! it fetches only over https or from this machine, follows no redirects, and limits the bytes and
//! the time.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use reqwest::{Client, Response, StatusCode, Url, header, redirect};
use serde::Deserialize;

/// The largest document, in bytes: a discovery document takes some two thousand, a key with its
/// certificates four.
const LARGEST: usize = 256 * 1024;
/// How long connecting may take. The caller bounds the rest.
const CONNECT: Duration = Duration::from_secs(2);
/// How long fetched keys count as fresh: the default if the issuer does not say, and the minimum
/// and maximum if it does. A withdrawn key is used no longer than that.
const FRESH: Duration = Duration::from_mins(5);
const FRESH_AT_LEAST: Duration = Duration::from_mins(1);
const FRESH_AT_MOST: Duration = Duration::from_mins(15);

/// An issuer, by its URL.
#[derive(Debug)]
pub(super) struct Source {
    client: Client,
    issuer: String,
    discovery: Url,
}

/// A set of keys as received.
pub(super) struct Fetched {
    pub(super) document: Vec<u8>,
    /// How long until the next fetch is needed.
    pub(super) fresh: Duration,
}

#[derive(Deserialize)]
struct Discovered {
    issuer: String,
    jwks_uri: String,
}

impl Source {
    /// The issuer with this URL, which must equal the `iss` of its tokens exactly.
    ///
    /// # Errors
    /// Why it cannot be an issuer.
    pub(super) fn new(issuer: &str) -> Result<Self, String> {
        let known = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let discovery = Url::parse(issuer).and_then(|_| Url::parse(&known));
        let discovery = discovery.map_err(|error| format!("JWT_ISSUER is not a URL: {error}"))?;
        if !is_safe(&discovery, true) {
            return Err(
                "JWT_ISSUER must be an https URL; http is only allowed for this machine".to_owned()
            );
        }
        let bare = discovery.username().is_empty() && discovery.password().is_none();
        if !bare || issuer.contains(['?', '#']) {
            return Err("JWT_ISSUER must have no user, query or fragment".to_owned());
        }
        // An error means that another part of the process has installed one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT)
            // Fetches are minutes apart: by then a pooled connection may be dead.
            .pool_max_idle_per_host(0)
            .user_agent(concat!("ticketing/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| format!("cannot ask JWT_ISSUER for its keys: {error}"))?;
        Ok(Self { client, issuer: issuer.to_owned(), discovery })
    }

    /// Fetches the issuer's current keys.
    pub(super) async fn fetch(&self) -> anyhow::Result<Fetched> {
        let answer = self.get(self.discovery.clone()).await?;
        let answer = read(answer).await.context("its configuration")?;
        let discovered: Discovered =
            serde_json::from_slice(&answer).context("its configuration")?;
        ensure!(
            discovered.issuer == self.issuer,
            "its configuration names another issuer, {:?}",
            discovered.issuer
        );
        let keys = Url::parse(&discovered.jwks_uri).context("its jwks_uri")?;
        if !is_safe(&keys, self.discovery.scheme() == "http") {
            bail!("its jwks_uri is not an https URL");
        }
        let answer = self.get(keys).await?;
        let fresh = fresh(&answer);
        Ok(Fetched { document: read(answer).await.context("its keys")?, fresh })
    }

    async fn get(&self, url: Url) -> anyhow::Result<Response> {
        let request = self.client.get(url).header(header::ACCEPT, "application/json");
        let answer = request.send().await?;
        ensure!(answer.status() == StatusCode::OK, "{} answered {}", answer.url(), answer.status());
        Ok(answer)
    }
}

/// Over https; or from this machine, where allowed, for tests and trials.
fn is_safe(url: &Url, here_too: bool) -> bool {
    let here = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => return false,
    };
    url.scheme() == "https" || (here_too && here && url.scheme() == "http")
}

/// Reads the body, unless it is too large.
async fn read(mut answer: Response) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        ensure!(body.len() + chunk.len() <= LARGEST, "it has more than {LARGEST} bytes");
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Returns how long the keys are fresh according to the issuer, within bounds.
fn fresh(answer: &Response) -> Duration {
    let given = answer.headers().get_all(header::CACHE_CONTROL).iter();
    let given = given.filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join(",");
    max_age(&given).map_or(FRESH, |age| age.clamp(FRESH_AT_LEAST, FRESH_AT_MOST))
}

/// `max-age` of a Cache-Control (RFC 9111, section 5.2); zero if it forbids caching.
fn max_age(cache_control: &str) -> Option<Duration> {
    let mut age = None;
    for directive in cache_control.split(',') {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        match &*name.trim().to_ascii_lowercase() {
            "no-store" | "no-cache" => return Some(Duration::ZERO),
            "max-age" => age = value.trim().trim_matches('"').parse().ok().map(Duration::from_secs),
            _ => {}
        }
    }
    age
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_is_reached_over_https_or_on_this_machine() {
        for issuer in [
            "https://login.example.com",
            "https://login.example.com/realms/shop/",
            "http://localhost:8080/realms/shop",
            "http://127.0.0.1:1",
            "http://[::1]:1",
        ] {
            let source = Source::new(issuer).unwrap();
            let known =
                format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
            assert_eq!((source.discovery.as_str(), &*source.issuer), (&*known, issuer));
        }
        for issuer in [
            "",
            "login.example.com",
            "http://login.example.com",
            "http://localhost.example.com",
            "http://192.168.0.1",
            "ftp://localhost",
            "file:///etc/passwd",
            "https://user:password@login.example.com",
            "https://login.example.com?tenant=1",
            "https://login.example.com/#",
        ] {
            assert!(Source::new(issuer).unwrap_err().contains("JWT_ISSUER"), "{issuer}");
        }
        let elsewhere = Url::parse("http://127.0.0.1/keys").unwrap();
        assert!(!is_safe(&elsewhere, false), "an https issuer must serve its keys over https");
    }

    #[test]
    fn the_issuer_decides_how_long_its_keys_are_fresh() {
        for (given, seconds) in [
            ("max-age=600", Some(600)),
            ("public, Max-Age=\"21600\", must-revalidate", Some(21_600)),
            ("no-store", Some(0)),
            ("max-age=600, no-cache", Some(0)),
            ("", None),
            ("public", None),
            ("max-age=soon", None),
            ("s-maxage=5", None),
        ] {
            assert_eq!(max_age(given), seconds.map(Duration::from_secs), "{given}");
        }
    }
}
