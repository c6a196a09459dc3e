-- An id belongs to one event (docs/adr/0032). What it was, by the first 16 bytes of the SHA-256 of its
-- bytes; null for what replicas of the release before have claimed. Everyone queues behind this lock
-- while it waits, so it waits briefly, lets them pass, and tries again, as in 0004.
do $$
declare
    wait_ms integer := 100;
begin
    for try in 1..40 loop
        begin
            perform set_config('lock_timeout', wait_ms::text, true);
            lock table bus.inbox in access exclusive mode;
            exit;
        exception when lock_not_available then
            if try = 40 then
                raise;
            end if;
            perform pg_sleep(wait_ms / 500.0);
            wait_ms := least(2 * wait_ms, 3000);
        end;
    end loop;
    alter table bus.inbox add column digest bytea;
end
$$;

-- Dead letters that came more than once. A table of its own: replicas of the release before read
-- bus.dead_letters by `*`.
create table bus.dead_letter_copies (
    dead_letter bigint         primary key references bus.dead_letters (id) on delete cascade,
    copies      bigint         not null,  -- messages, the first one included
    sequences   int8multirange not null,  -- where they were in the stream, the first of them and the last
    last_at     timestamptz    not null default clock_timestamp()
);

-- How many numbers are in ranges of them.
create function bus.size_of(ranges int8multirange) returns bigint
    language sql immutable parallel safe
    return (select coalesce(sum(upper(range) - lower(range)), 0)::bigint from unnest(ranges) as range);

-- The first 99 of many ranges, and the last one: enough to find them, and never more.
create function bus.first_and_last(ranges int8multirange) returns int8multirange
    language sql immutable parallel safe
    return (select range_agg(range)
            from (select range, row_number() over (order by range) as place, count(*) over () as number
                  from unnest(ranges) as range) as placed
            where place < 100 or place = number);
