-- works for regionds that know 0002
-- Addresses that somebody on the wire uses without a reservation, as probes of clusters found out. A row is a mark: as
-- long as it is there, nobody is given the address. It goes when it expires, or when an admin clears it.

CREATE TABLE address_in_use (
    id bigint PRIMARY KEY,
    subnet bigint NOT NULL REFERENCES subnet ON DELETE CASCADE,
    address inet NOT NULL CHECK (masklen(address) = CASE family(address) WHEN 4 THEN 32 ELSE 128 END),
    mac text NOT NULL,
    cluster bigint NOT NULL REFERENCES cluster ON DELETE CASCADE,
    since timestamptz NOT NULL DEFAULT now(),
    seen_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    UNIQUE (subnet, address)
);
CREATE INDEX address_in_use_expires_at ON address_in_use (expires_at);
COMMENT ON COLUMN address_in_use.mac IS 'who answered last';

-- `probe`: claims are probed unless they say otherwise. `probed`: whether it was found out that nobody used the address
-- when it was handed out; NULL where nobody wanted to know.
ALTER TABLE subnet ADD COLUMN probe boolean NOT NULL DEFAULT false;
ALTER TABLE reservation ADD COLUMN probed boolean;

-- What the free ranges of a subnet, or of a part of it, have to be: what is usable, less ranges, infrastructure,
-- reservations, what DHCP servers have of their own, and what somebody uses without a reservation. inetrange is continuous, so a gap may end open at an occupied
-- address: step inside it.
CREATE FUNCTION expected_free_ranges(the_subnet bigint, from_low inet DEFAULT NULL, to_high inet DEFAULT NULL)
RETURNS TABLE (low inet, high inet)
LANGUAGE sql STABLE AS $$
    WITH part AS (
        SELECT greatest(s.first_usable, from_low) AS low, least(s.last_usable, to_high) AS high
        FROM subnet s WHERE s.id = the_subnet
    ), occupied AS (
        SELECT inetrange(r.low, r.high, '[]') AS span FROM part p JOIN address_range r
            ON r.subnet = the_subnet AND r.low <= p.high AND r.high >= p.low
        UNION ALL
        SELECT inetrange(i.address, i.address, '[]') FROM part p JOIN infrastructure_address i
            ON i.subnet = the_subnet AND i.address BETWEEN p.low AND p.high
        UNION ALL
        SELECT inetrange(r.address, r.address, '[]') FROM part p JOIN reservation r
            ON r.subnet = the_subnet AND r.address BETWEEN p.low AND p.high
        UNION ALL
        SELECT inetrange(g.low, g.high, '[]') FROM part p JOIN reported_range g
            ON g.subnet = the_subnet AND g.low <= p.high AND g.high >= p.low
        UNION ALL
        SELECT inetrange(e.address, e.address, '[]') FROM part p JOIN reported_entry e
            ON e.subnet = the_subnet AND e.address BETWEEN p.low AND p.high
        UNION ALL
        SELECT inetrange(u.address, u.address, '[]') FROM part p JOIN address_in_use u
            ON u.subnet = the_subnet AND u.address BETWEEN p.low AND p.high
    ), gap AS (
        SELECT unnest(inetmultirange(inetrange(p.low, p.high, '[]'))
                      - coalesce((SELECT range_agg(span) FROM occupied), '{}'::inetmultirange)) AS span
        FROM part p WHERE p.low <= p.high
    ), bound AS (
        SELECT CASE WHEN lower_inc(span) THEN lower(span) ELSE lower(span) + 1 END AS low,
               CASE WHEN upper_inc(span) THEN upper(span) ELSE upper(span) - 1 END AS high
        FROM gap
    )
    SELECT b.low, b.high FROM bound b WHERE b.low <= b.high
$$;
