-- The service's own tables. The bus keeps its tables beside them, in the schema `bus`.

-- The checks repeat what the API has refused long before: they are for hands that pass it by.
create table tickets (
    id         uuid          primary key,  -- version 7: its order is the order of creation
    title      text          not null check (char_length(title) between 1 and 200),
    price      numeric(9, 2) not null check (price between 0 and 1000000),
    version    integer       not null check (version > 0),
    created_at timestamptz   not null,
    updated_at timestamptz   not null
);

-- What a POST with an Idempotency-Key was answered, written in the transaction of its ticket.
create table idempotency_keys (
    key          text        primary key,
    request_hash bytea       not null,     -- SHA-256 of the title and price that were asked for
    ticket_id    uuid        not null,
    answer       text        not null,     -- the body of the 201, to the byte
    created_at   timestamptz not null default clock_timestamp()
);
create index idempotency_keys_created on idempotency_keys (created_at);
