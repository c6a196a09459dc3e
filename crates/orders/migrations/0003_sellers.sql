-- Who sells a ticket, as the tickets service said. Null where no event has said so.
alter table tickets add column seller text;
