-- Who sells a ticket. Null where a release without sellers stored it, as its replicas do while both run.
-- The check is not valid for what is there, so that nobody waits while every row is read: nothing that
-- is there has a seller.
alter table tickets add column seller text;
alter table tickets add constraint seller_is_a_name
    check (char_length(seller) between 1 and 200) not valid;
