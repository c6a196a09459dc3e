-- What a POST with an Idempotency-Key was answered, written in the transaction of what it made. Not a
-- part of the bus, but the same in every service, so that the library owns it as well.
create table bus.idempotency_keys (
    key          text        primary key,
    request_hash bytea       not null,     -- SHA-256 of what was asked for
    resource_id  uuid        not null,     -- what was made
    answer       text        not null,     -- the body of the 201, to the byte
    created_at   timestamptz not null default clock_timestamp()
);
create index idempotency_keys_created on bus.idempotency_keys (created_at);
