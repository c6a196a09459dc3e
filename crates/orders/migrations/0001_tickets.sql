-- The service's own copy of each ticket, as the newest event that it has seen tells it.
create table tickets (
    id           uuid          primary key,
    title        text          not null,
    price        numeric(9, 2) not null,
    version      integer       not null,
    created_at   timestamptz   not null,
    updated_at   timestamptz   not null,
    event_id     uuid          not null,  -- the event that brought this version
    processed_by text          not null,  -- the member of the queue group that took it
    processed_at timestamptz   not null default clock_timestamp()
);
