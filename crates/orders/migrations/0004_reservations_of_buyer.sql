-- Who has reserved how much, read whenever somebody reserves: of a buyer's orders only those that are
-- neither paid nor given back, however many there have been.
create index reservations_of_buyer on orders (buyer, expires_at) where status = 'reserved';
