-- An event's entity, to find the events of one (docs/adr/0039). Null for what replicas of the previous release write. An
-- index is built on empty partitions only, at once; the others get theirs when they are next emptied. Everyone queues
-- behind these locks while they wait, so they wait briefly, let the others pass, and try again, as in 0004.
do $$
declare
    wait_ms integer := 100;
    empty   boolean;
begin
    for try in 1..40 loop
        begin
            perform set_config('lock_timeout', wait_ms::text, true);
            lock table bus.log, bus.inbox in access exclusive mode;
            exit;
        exception when lock_not_available then
            if try = 40 then
                raise;
            end if;
            perform pg_sleep(wait_ms / 500.0);
            wait_ms := least(2 * wait_ms, 3000);
        end;
    end loop;
    -- For a UUIDv7, its first 8 bytes: entities of one time are next to each other. For others, a hash.
    alter table bus.log add column entity bigint;
    for slot in 0..8 loop
        execute format('select not exists (select from bus.log_%s)', slot) into empty;
        if empty then
            execute format('create index log_%s_entity on bus.log_%s (entity, position) where entity is not null',
                           slot, slot);
        end if;
    end loop;
    -- How often the event was tried on its own before it took effect; null if it never was.
    alter table bus.inbox add column attempts integer;
end
$$;
