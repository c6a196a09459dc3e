-- A ticket is its id, version, price and state (0005). The previous release still writes the other columns, and
-- reads them only where `state_version` is not `version`: in rows from before 0.1.0. A later release fills in the
-- states that those lack, and drops title, created_at, updated_at, seller, hold and state_version.
alter table tickets
    alter column title      drop not null,
    alter column created_at drop not null,
    alter column updated_at drop not null;
