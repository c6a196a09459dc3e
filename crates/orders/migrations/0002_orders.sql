-- Whose a ticket is, as the tickets service last said.
alter table tickets add column hold jsonb;

create table orders (
    id                uuid          primary key,  -- version 7: its order is the order of creation
    ticket_id         uuid          not null references tickets (id),
    buyer             text          not null check (char_length(buyer) between 1 and 200),
    price             numeric(9, 2) not null check (price between 0 and 1000000),
    status            text          not null
                      check (status in ('reserved', 'completed', 'cancelled', 'expired')),
    version           integer       not null check (version > 0),
    expires_at        timestamptz   not null,
    created_at        timestamptz   not null,
    updated_at        timestamptz   not null,
    payment_amount    numeric(9, 2),
    payment_reference text          unique,       -- one payment pays for one order
    constraint what_is_completed_is_paid
        check ((status = 'completed') = (payment_reference is not null)
               and (payment_reference is null) = (payment_amount is null))
);
-- The promise that no two buyers get the same ticket. Everything else only says so more kindly.
create unique index one_order_has_a_ticket on orders (ticket_id)
    where status in ('reserved', 'completed');
create index orders_due on orders (expires_at) where status = 'reserved';
create index orders_of_buyer on orders (buyer, id);

-- Payments that are promised and not yet taken: each is captured after its order was completed, and the
-- row is gone once that is done.
create table captures (
    order_id uuid        primary key references orders (id),
    due_at   timestamptz not null default clock_timestamp()
);
create index captures_due on captures (due_at);
