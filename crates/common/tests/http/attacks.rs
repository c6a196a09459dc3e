//! Honest clients are answered while others make the server wait.

use common::pod::http::{BODY_TIMEOUT, MiddlewareSettings, server::Bounds};
use futures::future::join_all;

use crate::{
    client::{BODY, Client, posting},
    service::Service,
};

/// The most connections that the server allows.
const ROOM: usize = 50;
/// The number of attacking connections.
pub(crate) const MANY: usize = 500;

/// Opens many connections, each of which has sent this.
pub(crate) async fn crowd(service: &Service, sends: &str) -> Vec<Client> {
    let connect = async || {
        let mut client = service.client().await;
        // The server may have closed it again.
        let _ = client.try_send(sends).await;
        client
    };
    join_all((0..MANY).map(|_| connect())).await
}

/// Checks that an honest client is answered, on a new connection and on one that is kept alive.
async fn is_answered(service: &Service, kept: &mut Client) {
    assert_eq!(service.client().await.post(BODY).await.status, 200);
    assert_eq!(kept.post(BODY).await.status, 200);
}

#[tokio::test]
async fn requests_are_answered_despite_ten_times_the_allowed_number_of_idle_connections() {
    let service = Service::with_room(ROOM);
    let mut kept = service.client().await;
    assert_eq!(kept.post(BODY).await.status, 200);
    let mut idle = crowd(&service, "").await;
    is_answered(&service, &mut kept).await;
    // The oldest connection had to make room.
    assert!(idle[0].until_closed().await.is_empty());
}

#[tokio::test]
async fn requests_are_answered_despite_ten_times_as_many_incomplete_heads() {
    let service = Service::with_room(ROOM);
    let mut kept = service.client().await;
    assert_eq!(kept.post(BODY).await.status, 200);
    let mut half = crowd(&service, "POST /things HTTP/1.1\r\nhost: a\r\nx-a: ").await;
    is_answered(&service, &mut kept).await;
    // The oldest connection was told why.
    let told = String::from_utf8(half[0].until_closed().await).unwrap();
    assert!(told.is_empty() || told.starts_with("HTTP/1.1 503 "), "{told}");
}

#[tokio::test]
async fn requests_are_answered_despite_ten_times_as_many_posts_without_a_body() {
    let settings = MiddlewareSettings { concurrent: 2, ..MiddlewareSettings::default() };
    let bounds = Bounds { connections: ROOM, ..Bounds::default() };
    let service = Service::with(&settings, bounds);
    let mut kept = service.client().await;
    assert_eq!(kept.post(BODY).await.status, 200);
    let head = posting(BODY).replace(BODY, "");
    let bodiless = crowd(&service, &head).await;
    is_answered(&service, &mut kept).await;
    drop(bodiless);
}

#[tokio::test]
async fn requests_are_answered_despite_clients_that_do_not_read() {
    let service = Service::with_room(ROOM);
    let mut kept = service.client().await;
    assert_eq!(kept.post(BODY).await.status, 200);
    let unread = crowd(&service, &"GET /large HTTP/1.1\r\nhost: a\r\n\r\n".repeat(4)).await;
    is_answered(&service, &mut kept).await;
    drop(unread);
}

#[tokio::test]
async fn a_burst_above_the_limit_is_answered_in_turn() {
    let settings = MiddlewareSettings { concurrent: 8, ..MiddlewareSettings::default() };
    let service = Service::with(&settings, Bounds::default());
    let ask = async || service.client().await.get("/moment", "").await.status;
    let answered = join_all((0..5 * settings.concurrent).map(|_| ask())).await;
    assert!(answered.iter().all(|&status| status == 200), "{answered:?}");
}

#[tokio::test]
async fn a_missing_body_takes_no_slot_and_is_answered_408() {
    let settings = MiddlewareSettings { concurrent: 1, ..MiddlewareSettings::default() };
    let service = Service::with(&settings, Bounds::default());
    let mut slow = service.client().await;
    slow.send(posting(BODY).trim_end_matches('}')).await;
    assert_eq!(service.client().await.post(BODY).await.status, 200);
    let answer = slow.answer().await;
    answer.is_problem(408);
    assert_eq!(answer.header("connection"), "close");
    let limit = format!("The request body must arrive within {} s.", BODY_TIMEOUT.as_secs());
    assert_eq!(answer.json()["detail"], limit.as_str());
    assert!(slow.until_closed().await.is_empty());
}

#[tokio::test]
async fn a_missing_head_is_answered_408() {
    let service = Service::impatient();
    let mut slow = service.client().await;
    slow.send("GET / HTTP/1.1\r\n").await;
    let answer = slow.answer().await;
    answer.is_problem(408);
    assert!(slow.until_closed().await.is_empty());

    // Also the second one of a connection, whether or not it arrived with the first.
    let mut second = service.client().await;
    second.send(posting(BODY)).await;
    assert_eq!(second.answer().await.status, 200);
    second.send("GET").await;
    second.answer().await.is_problem(408);
}

#[tokio::test]
async fn a_silent_connection_is_closed_without_an_answer() {
    let service = Service::impatient();
    let mut new = service.client().await;
    assert!(new.until_closed().await.is_empty());
    let mut kept = service.client().await;
    assert_eq!(kept.post(BODY).await.status, 200);
    assert!(kept.until_closed().await.is_empty());
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_disconnected() {
    let service = Service::impatient();
    let mut unread = service.client().await;
    // More than both kernels buffer.
    unread.send("GET /large HTTP/1.1\r\nhost: a\r\n\r\n".repeat(40)).await;
    unread.until_gone_unread().await;
}

#[tokio::test]
async fn invalid_http_is_refused_and_harms_nobody() {
    let service = Service::start();
    let chunked = "POST /things HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
                   transfer-encoding: chunked\r\n\r\n";
    for garbage in [
        "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03".to_owned(), // TLS
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "GET /things/1\r\n\r\n".to_owned(), // HTTP/0.9
        "\0".repeat(100),
        "\r\n".repeat(20_000),
        "GET /things/1 HTTP/1.1\r\nhost: a\r\n folded\r\n\r\n".to_owned(),
        "GET /things/1 HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n"
            .to_owned(),
        format!("{chunked}1;{}\r\na\r\n", "e".repeat(100_000)),
        format!("{chunked}fffffffffffffffff\r\n"),
        format!("{chunked}0\r\n{}\r\n", "t: t\r\n".repeat(10_000)),
    ] {
        let mut client = service.client().await;
        let _ = client.try_send(&garbage).await;
        let answered = client.until_closed().await;
        let answered = String::from_utf8_lossy(&answered);
        let refused = answered.is_empty() || answered.starts_with("HTTP/1.1 4");
        assert!(
            refused,
            "{:?} was answered {answered}",
            garbage.chars().take(80).collect::<String>()
        );
    }
    assert_eq!(service.client().await.post(BODY).await.status, 200);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let service = Service::start();
    let mut client = service.client().await;
    let bodies: Vec<String> = (0..200).map(|n| format!(r#"{{"name":"{n}"}}"#)).collect();
    client.send(bodies.iter().map(|body| posting(body)).collect::<String>()).await;
    for body in bodies {
        assert_eq!(client.answer().await.body, body);
    }
}

#[tokio::test]
async fn expect_continue_is_answered_100_and_takes_no_slot_until_the_body_arrives() {
    let settings = MiddlewareSettings { concurrent: 1, ..MiddlewareSettings::default() };
    let service = Service::with(&settings, Bounds::default());
    let mut asks = service.client().await;
    let head =
        posting(BODY).replace(BODY, "").replace("host: a", "host: a\r\nexpect: 100-continue");
    asks.send(head).await;
    assert_eq!(asks.answer().await.status, 100);
    assert_eq!(service.client().await.post(BODY).await.status, 200);
    asks.send(BODY).await;
    assert_eq!(asks.answer().await.status, 200);
}

#[tokio::test]
async fn a_client_that_sends_too_much_gets_the_reason() {
    let service = Service::start();
    for _ in 0..20 {
        let mut client = service.client().await;
        // It keeps writing while it is refused.
        let _ = client.try_send(posting(&"a".repeat(200_000))).await;
        client.answer().await.is_problem(413);
        let mut chunked = service.client().await;
        let head = "POST /things HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
                    transfer-encoding: chunked\r\n\r\n";
        let _ =
            chunked.try_send(format!("{head}9c40\r\n{}\r\n0\r\n\r\n", "a".repeat(40_000))).await;
        chunked.answer().await.is_problem(413);
    }
}
