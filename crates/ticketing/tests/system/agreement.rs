//! Whatever happens to orders, and in whatever order, however often and however late their events arrive,
//! every order is in a valid state, and once everything has arrived both services agree. Runs the services'
//! own statements on a real Postgres, with random delivery instead of NATS.

use std::sync::atomic::{AtomicU64, Ordering};

use common::{
    bus::{self, Listener, Received, Wake, envelope::Envelope},
    events::{
        Event as _, EventSet,
        as_received::AsReceived,
        order::{Order, OrderCreated, OrderEvent, OrderStatus, Payment},
        ticket::{Ticket, TicketCreated, TicketUpdated},
    },
};
use embedded::Postgres;
use orders::{
    listener::TicketListener,
    order::{self, Transition},
    store::{orders as store, reservations},
};
use proptest::{prelude::*, test_runner::TestRunner};
use sqlx::PgPool;
use tickets::listener::OrderListener;
use time::OffsetDateTime;
use uuid::Uuid;

const TICKETS: usize = 3;
const CASES: u32 = 100;

/// Something that happens.
#[derive(Debug, Clone)]
enum Step {
    /// A buyer reserves this ticket.
    Reserve(usize),
    /// One of the existing orders is paid or cancelled, or comes due.
    Pay(usize),
    Cancel(usize),
    Expire(usize),
    /// One of the events in transit arrives, and may arrive again later.
    Deliver {
        which: usize,
        again: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..TICKETS).prop_map(Step::Reserve),
        1 => any::<usize>().prop_map(Step::Pay),
        1 => any::<usize>().prop_map(Step::Cancel),
        1 => any::<usize>().prop_map(Step::Expire),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(which, again)| Step::Deliver { which, again }),
    ]
}

/// An event in transit from one service to the other.
#[derive(Debug, Clone)]
enum Event {
    Order(Order),
    Ticket(Ticket),
}

struct World {
    tickets_db: PgPool,
    orders_db: PgPool,
    tickets: Vec<Uuid>,
    orders: Vec<Uuid>,
    under_way: Vec<Event>,
}

impl World {
    /// Creates tickets that both services know.
    async fn new(tickets_db: PgPool, orders_db: PgPool) -> Self {
        let mut world =
            Self { tickets_db, orders_db, tickets: vec![], orders: vec![], under_way: vec![] };
        for _ in 0..TICKETS {
            let ticket = Ticket::example();
            let mut tx = world.tickets_db.begin().await.unwrap();
            tickets::store::insert(&mut tx, [&ticket]).await.unwrap();
            tx.commit().await.unwrap();
            world.tickets.push(ticket.id);
            world.arrives(Event::Ticket(ticket)).await;
        }
        world
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Reserve(ticket) => self.reserve(self.tickets[ticket]).await,
            Step::Pay(which) => {
                let reference = Uuid::now_v7().to_string();
                let payment = Payment { amount: "20".parse().unwrap(), reference };
                self.command(which, Transition::Pay(payment), false).await;
            }
            Step::Cancel(which) => self.command(which, Transition::Cancel, false).await,
            Step::Expire(which) => self.command(which, Transition::Expire, true).await,
            Step::Deliver { which, again } if !self.under_way.is_empty() => {
                let at = which % self.under_way.len();
                let event = self.under_way.swap_remove(at);
                if again {
                    self.under_way.push(event.clone());
                }
                self.arrives(event).await;
            }
            Step::Deliver { .. } => {}
        }
    }

    async fn reserve(&mut self, ticket: Uuid) {
        let mut tx = self.orders_db.begin().await.unwrap();
        let (price, now) =
            reservations::price(&mut tx, ticket, Some("ada")).await.unwrap().unwrap();
        let order = order::reserve(ticket, "ada", price, now, std::time::Duration::from_secs(60));
        let other = store::of_ticket(&mut tx, ticket).await.unwrap();
        let reserved = !reservations::insert(&mut tx, &[&order], None).await.unwrap().is_empty();
        assert_eq!(reserved, other.is_none(), "a ticket has one order");
        tx.commit().await.unwrap();
        if reserved {
            self.orders.push(order.id);
            self.under_way.push(Event::Order(order));
        }
    }

    async fn command(&mut self, which: usize, command: Transition, when_due: bool) {
        if self.orders.is_empty() {
            return;
        }
        let id = self.orders[which % self.orders.len()];
        let mut tx = self.orders_db.begin().await.unwrap();
        let before = store::lock(&mut tx, id, "ada").await.unwrap().unwrap();
        let now = if when_due { before.expires_at } else { before.updated_at };
        if let Ok(Some(next)) = order::decide(&before, command, now) {
            assert_eq!(before.status, OrderStatus::Reserved, "a final state changed");
            store::save(&mut tx, std::slice::from_ref(&next)).await.unwrap();
            let saved = store::find(&mut tx, id, "ada").await.unwrap().unwrap();
            assert_eq!(saved, next);
            self.under_way.push(Event::Order(next));
        }
        tx.commit().await.unwrap();
    }

    /// Applies an event in the other service, which may cause the next one.
    async fn arrives(&mut self, event: Event) {
        match event {
            Event::Ticket(ticket) => {
                let (subject, told) = match ticket.version {
                    1 => (TicketCreated::SUBJECT, serde_json::to_string(&TicketCreated(ticket))),
                    _ => (TicketUpdated::SUBJECT, serde_json::to_string(&TicketUpdated(ticket))),
                };
                let event = AsReceived::decode(subject, 1, &told.unwrap()).unwrap();
                handle(&self.orders_db, &TicketListener, event).await;
            }
            Event::Order(order) => {
                let event = OrderEvent::Created(OrderCreated(order));
                handle(&self.tickets_db, &OrderListener::new(Wake::default()), event).await;
                let told: Vec<String> =
                    sqlx::query_scalar("delete from bus.log returning envelope")
                        .fetch_all(&self.tickets_db)
                        .await
                        .unwrap();
                for envelope in told {
                    let envelope = Envelope::parse(envelope.as_bytes()).unwrap();
                    let TicketUpdated(ticket) =
                        TicketUpdated::decode(&envelope.kind, 1, envelope.data.get()).unwrap();
                    self.under_way.push(Event::Ticket(ticket));
                }
            }
        }
    }

    /// Delivers everything in transit, twice; then both services must agree on each ticket.
    async fn ends_in_agreement(&mut self) {
        while let Some(event) = self.under_way.pop() {
            self.arrives(event.clone()).await;
            self.arrives(event).await;
        }
        for ticket in &self.tickets {
            let mut connection = self.tickets_db.acquire().await.unwrap();
            let own = tickets::store::find(&mut connection, *ticket).await.unwrap().unwrap();
            let mut connection = self.orders_db.acquire().await.unwrap();
            let copy = orders::store::tickets::find(&mut connection, *ticket).await.unwrap();
            let copy = serde_json::to_string(&copy.unwrap()).unwrap();
            let copy: Ticket = serde_json::from_str(&copy).unwrap();
            assert_eq!(own, copy, "the copy is the original");
            let having = store::of_ticket(&mut connection, *ticket).await.unwrap();
            let held = own.hold.map(|hold| (hold.order_id, hold.status.as_str()));
            let having = having.map(|order| match order.status {
                OrderStatus::Completed => (order.id, "sold"),
                status => (order.id, status.as_str()),
            });
            assert_eq!(held, having, "the ticket is held by its order");
        }
    }
}

async fn handle<L: Listener>(pool: &PgPool, listener: &L, event: L::Events) {
    let received =
        Received::new(Uuid::now_v7(), OffsetDateTime::now_utc(), "member".to_owned(), event);
    let mut tx = pool.begin().await.unwrap();
    listener.handle(&mut tx, &[&received]).await.unwrap();
    tx.commit().await.unwrap();
}

#[test]
fn both_services_agree_whatever_happens_to_orders_and_in_whatever_order_events_arrive() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (postgres, tickets_db, orders_db) = runtime.block_on(async {
        let postgres = Postgres::builder().fsync(false).start().await.unwrap();
        let tickets_db = postgres.create_database("tickets").await.unwrap();
        let tickets_db = PgPool::connect(&tickets_db).await.unwrap();
        let orders_db = postgres.create_database("orders").await.unwrap();
        let orders_db = PgPool::connect(&orders_db).await.unwrap();
        for database in [&tickets_db, &orders_db] {
            bus::migrate(database).await.unwrap();
            common::pod::migrate(database).await.unwrap();
        }
        tickets::store::migrate(&tickets_db).await.unwrap();
        orders::store::migrate(&orders_db).await.unwrap();
        (postgres, tickets_db, orders_db)
    });
    let made = AtomicU64::new(0);
    let config = ProptestConfig { cases: CASES, failure_persistence: None, ..Default::default() };
    TestRunner::new(config)
        .run(&prop::collection::vec(step(), 1..60), |steps| {
            runtime.block_on(async {
                let mut world = World::new(tickets_db.clone(), orders_db.clone()).await;
                for step in steps {
                    world.take(step).await;
                }
                world.ends_in_agreement().await;
                made.fetch_add(world.orders.len() as u64, Ordering::Relaxed);
            });
            Ok(())
        })
        .unwrap();
    assert!(made.into_inner() > u64::from(CASES), "too few orders were created");
    drop(postgres);
}
