-- What operators did to dead letters: who, when, and to which events (docs/adr/0036). Rows are kept for 90 days.
create table bus.operator_acts (
    id        bigint      primary key generated always as identity,
    at        timestamptz not null default clock_timestamp(),
    act       text        not null check (act in ('redrive', 'discard')),
    operator  text        not null,     -- the name that the operator gave
    via       text        not null,     -- the process that did it
    selection jsonb       not null,     -- what the operator asked for
    letters   bigint      not null      -- how many dead letters that was
);
create index operator_acts_at on bus.operator_acts (at);
create table bus.operator_act_letters (
    act         bigint not null references bus.operator_acts (id) on delete cascade,
    dead_letter bigint not null,        -- its number; a discarded one is gone
    event_id    uuid   not null,
    queue_group text   not null,
    subject     text   not null,
    reason      text   not null,        -- at that time
    primary key (act, dead_letter)
);
create index operator_act_letters_event on bus.operator_act_letters (event_id);

-- What reasons have in common: without ids, numbers and most of a long text.
create function bus.reason_pattern(reason text) returns text
    language sql immutable parallel safe
    return regexp_replace(
        regexp_replace(left(reason, 300),
            '[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}', '<id>', 'g'),
        '[0-9]+', '#', 'g');
