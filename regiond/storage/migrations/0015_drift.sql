-- What a cluster found otherwise in its DHCP server than it had applied, and put right, the last time that it found any.

ALTER TABLE delivery
    ADD COLUMN drift_count integer,
    ADD COLUMN drift_at timestamptz;
