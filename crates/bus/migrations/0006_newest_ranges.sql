-- After a stream has lost its end, its ranges are gone through from the newest back: along this, and not by
-- sorting all of them for each step.
create index ranges_newest on bus.ranges (stream, created, last_sequence) where not lost;
