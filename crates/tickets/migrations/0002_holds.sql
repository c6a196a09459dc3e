-- The library owns these now. A replica of the release before, while both run, reads and writes the same
-- rows through the view; it can be dropped with the release after this one. Locked first of all: a POST of
-- that replica takes this table before `tickets`, and must find neither locked by who waits for the other.
lock table idempotency_keys in access exclusive mode;
insert into bus.idempotency_keys (key, request_hash, resource_id, answer, created_at)
    select key, request_hash, ticket_id, answer, created_at from idempotency_keys;
drop table idempotency_keys;
create view idempotency_keys as
    select key, request_hash, resource_id as ticket_id, answer, created_at from bus.idempotency_keys;

-- Each order as the newest event that has come of it tells it. Which order holds a ticket follows from
-- these rows alone, so that it does not matter in which order the events come.
create table orders (
    id        uuid    primary key,
    ticket_id uuid    not null,  -- no reference: an order of a ticket that is gone is no reason to fail
    status    text    not null check (status in ('reserved', 'completed', 'cancelled', 'expired')),
    version   integer not null check (version > 0)
);
create index orders_holding on orders (ticket_id) where status in ('reserved', 'completed');

-- What follows from them, kept with the ticket because it is part of the ticket's state and version.
alter table tickets
    add column hold_order_id uuid,
    add column hold_status   text check (hold_status in ('reserved', 'sold')),
    add constraint hold_is_whole check ((hold_order_id is null) = (hold_status is null));
