-- The inbox as a ring of partitions by the time that an event's id carries (docs/adr/0020): one index
-- probe an event, and what is too old goes by emptying a partition.

-- The partition of an event's id. UUIDv7: windows of two days, eighteen of them in a ring. Every other
-- id carries no time that can be trusted, and goes to a partition of its own.
create function bus.inbox_slot(id uuid) returns smallint
    language sql immutable parallel safe
    return case when uuid_extract_version(id) = 7
                then (substring(uuid_send(id), 1, 6)::bigint / 172800000 % 18)::smallint
                else (-1)::smallint end;

create table bus.inbox_ring (
    queue_group  text        not null,
    event_id     uuid        not null,
    client_id    text        not null,        -- the member whose effect was committed
    processed_at timestamptz not null default clock_timestamp(),
    seen_at      timestamptz                  -- written by replicas of the release before, read by nobody
) partition by list (bus.inbox_slot(event_id));

-- An index of once on each partition: on the parent it would have to contain the partition key, which
-- is an expression. `on conflict do nothing` finds it in the partition.
do $$
begin
    for slot in 0..17 loop
        execute format('create table bus.inbox_%s partition of bus.inbox_ring for values in (%s)', slot, slot);
        execute format('create unique index inbox_%s_once on bus.inbox_%s (event_id, queue_group)', slot, slot);
    end loop;
end
$$;
create table bus.inbox_other partition of bus.inbox_ring for values in (-1);
create unique index inbox_other_once on bus.inbox_other (event_id, queue_group);
create index inbox_other_age on bus.inbox_other (processed_at);

-- What the table of before knows is not new, to a replica of any release.
create function bus.inbox_is_new() returns trigger language plpgsql as $$
begin
    if exists (select from bus.inbox_before
               where queue_group = new.queue_group and event_id = new.event_id) then
        return null;
    end if;
    return new;
end
$$;

-- Replicas of the release before write to bus.inbox meanwhile. Their transactions end before the table
-- changes its name, and those that come after find the new one under the old name. Everyone queues
-- behind this lock while it waits, so it waits briefly, lets them pass, and tries again; longer each
-- time, for a group whose transactions overlap, and always less than their statements may take (5 s).
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
    alter table bus.inbox rename to inbox_before;
    alter table bus.inbox_ring rename to inbox;
    if exists (select from bus.inbox_before) then
        create trigger inbox_is_new before insert on bus.inbox
            for each row execute function bus.inbox_is_new();
    else
        drop table bus.inbox_before;
        drop function bus.inbox_is_new();
    end if;
end
$$;
