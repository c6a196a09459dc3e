-- The bus's own tables, in a schema of their own beside the service's.

-- Events that this service has committed and owes to the stream. A row is a flag, not a place in
-- a cursor: rows become visible in the order of their commits, not of their positions, and a
-- cursor would pass over one that commits late.
create table bus.outbox (
    id              uuid        primary key,  -- the event's id, and its Nats-Msg-Id
    position        bigint      generated always as identity,
    stream          text        not null,
    subject         text        not null,
    envelope        text        not null,     -- the CloudEvents JSON, as it goes on the wire
    created_at      timestamptz not null default clock_timestamp(),
    published_at    timestamptz,              -- when the stream confirmed it
    stream_created  timestamptz,              -- which incarnation of the stream did
    stream_sequence bigint                    -- and where it stored it
);
-- What each stream had confirmed. A stream that comes back with another creation time, or shorter
-- than this, has lost events; the outbox publishes them again.
create table bus.streams (
    name          text        primary key,
    created       timestamptz not null,
    last_sequence bigint      not null
);
create index outbox_unpublished on bus.outbox (position) where published_at is null;
create index outbox_published on bus.outbox (published_at) where published_at is not null;

-- Events that took effect in this service, per queue group: the guarantee of once.
create table bus.inbox (
    queue_group  text        not null,
    event_id     uuid        not null,
    client_id    text        not null,        -- the member whose effect was committed
    processed_at timestamptz not null default clock_timestamp(),
    seen_at      timestamptz not null default clock_timestamp(), -- last delivery, even if a repeat
    primary key (queue_group, event_id)
);
create index inbox_seen on bus.inbox (seen_at);

-- Events that are being tried one by one. Counted before the handler runs, so that a handler that
-- kills its process is counted too.
create table bus.attempts (
    queue_group text        not null,
    event_id    uuid        not null,
    attempts    integer     not null,
    last_error  text        not null default '',
    last_at     timestamptz not null default clock_timestamp(),
    primary key (queue_group, event_id)
);

-- Events that cannot take effect until a person has looked at them.
create table bus.dead_letters (
    id              bigint      generated always as identity primary key,
    queue_group     text        not null,
    event_id        uuid        not null,
    subject         text        not null,
    payload         bytea       not null,     -- the message as it came, to the byte
    headers         jsonb       not null,
    stream          text        not null,
    stream_sequence bigint      not null,     -- where it was, for people; never a key
    reason          text        not null,
    attempts        integer     not null,
    client_id       text        not null,     -- the member that gave up
    dead_at         timestamptz not null default clock_timestamp(),
    redrive_at      timestamptz,              -- set to have the group try it again from then on
    unique (queue_group, event_id)
);
create index dead_letters_redrive on bus.dead_letters (redrive_at) where redrive_at is not null;
