-- A ticket's state as its event brought it, so that a field that the tickets service adds is kept by
-- replicas that do not know it (docs/adr/0033). `json` and not `jsonb`: kept to the digit, and nothing in a
-- field that nobody here reads is a reason to refuse the event.
alter table tickets
    add column state         json,
    add column state_version integer;  -- the version that `state` is of

-- Replicas of the release before read and write title, created_at, updated_at, seller and hold, and not
-- `state`. As long as they may run, this release writes both, and makes a state of the other columns where
-- `state_version` is not `version`. A later release fills in the states that are missing, and drops those
-- columns and `state_version`.
