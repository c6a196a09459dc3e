-- A column that earlier releases declared, and that nothing has written since 0004, has a use again.
comment on column bus.inbox.seen_at is
    'when NATS delivered the event to the member that applied it, by the clock of that member; null for a redriven dead letter';
