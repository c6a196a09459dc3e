create table notifications (
    id uuid primary key,
    ticket_id uuid not null,
    text text not null
);
