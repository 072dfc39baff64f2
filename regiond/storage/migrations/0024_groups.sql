-- Addresses that were reserved together are given back together.
-- works for regionds that know 0002

CREATE INDEX reservation_group ON reservation ("group") WHERE "group" IS NOT NULL;
