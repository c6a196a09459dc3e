-- What a POST with an Idempotency-Key was answered, written in the transaction of what it made. The schema
-- `bus` had this table, which is no part of messaging. Replicas of the release before, while both run,
-- read and write the same rows through a view of the old name; a later release drops it. Everyone queues
-- behind this lock while it waits, so it waits briefly, lets them pass, and tries again; longer each time,
-- and always less than their statements may take (5 s).
do $$
declare
    wait_ms integer := 100;
begin
    if to_regclass('bus.idempotency_keys') is null then
        create table chassis.idempotency_keys (
            key          text        primary key,
            request_hash bytea       not null,     -- SHA-256 of what was asked for
            resource_id  uuid        not null,     -- what was made
            answer       text        not null,     -- the body of the 201, to the byte
            created_at   timestamptz not null default clock_timestamp()
        );
        create index idempotency_keys_created on chassis.idempotency_keys (created_at);
        return;
    end if;
    for try in 1..40 loop
        begin
            perform set_config('lock_timeout', wait_ms::text, true);
            lock table bus.idempotency_keys in access exclusive mode;
            exit;
        exception when lock_not_available then
            if try = 40 then
                raise;
            end if;
            perform pg_sleep(wait_ms / 500.0);
            wait_ms := least(2 * wait_ms, 3000);
        end;
    end loop;
    alter table bus.idempotency_keys set schema chassis;
    create view bus.idempotency_keys as
        select key, request_hash, resource_id, answer, created_at from chassis.idempotency_keys;
    -- What a view's row lacks when a replica of the release before inserts it.
    alter view bus.idempotency_keys alter column created_at set default clock_timestamp();
end
$$;
