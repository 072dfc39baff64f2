-- works for regionds that know 0002
-- First contact: what a site's DHCP server has of its own, as its clusterd reads and reports it. Its pools and its
-- static entries are kept out of allocation as long as they are reported; nothing of the server is ever changed.

-- `contact`: the cluster does not report these (an older clusterd), has not yet, or has. While one of its serving clusters
-- has not yet, nothing is claimed from a subnet, unless an admin said so.
ALTER TABLE cluster
    ADD COLUMN contact text NOT NULL DEFAULT 'unsupported' CHECK (contact IN ('unsupported', 'awaited', 'reported')),
    ADD COLUMN contact_at timestamptz,
    ADD COLUMN contact_error text,
    ADD COLUMN contact_remarks text[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN cluster.contact_at IS 'when the last report came that could be read';
COMMENT ON COLUMN cluster.contact_error IS 'why the configuration could not be read since then';
ALTER TABLE subnet ADD COLUMN claimable_anyway boolean NOT NULL DEFAULT false;

-- As reported, whatever subnets there are: a subnet that comes later finds them here.
CREATE TABLE server_pool (
    id bigint PRIMARY KEY,
    cluster bigint NOT NULL REFERENCES cluster ON DELETE CASCADE,
    low inet NOT NULL,
    high inet NOT NULL,
    source text NOT NULL,
    created timestamptz NOT NULL DEFAULT now(),
    CHECK (low <= high)
);
CREATE INDEX server_pool_cluster ON server_pool (cluster, low);

-- `identifiers` are texts such as mac:00:16:3e:00:00:01, in order.
CREATE TABLE server_entry (
    id bigint PRIMARY KEY,
    cluster bigint NOT NULL REFERENCES cluster ON DELETE CASCADE,
    address inet NOT NULL,
    identifiers text[] NOT NULL,
    hostname text,
    source text NOT NULL,
    created timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX server_entry_cluster ON server_entry (cluster, address);

-- What of it concerns a subnet: a cluster speaks only for subnets that it serves, or did until it has forgotten them.
CREATE VIEW reported_range AS
SELECT p.id, d.subnet, d.cluster, p.source, p.created,
       greatest(p.low, host(network(s.cidr))::inet) AS low, least(p.high, host(broadcast(s.cidr))::inet) AS high
FROM delivery d JOIN subnet s ON s.id = d.subnet
JOIN server_pool p ON p.cluster = d.cluster
    AND p.low <= host(broadcast(s.cidr))::inet AND p.high >= host(network(s.cidr))::inet
WHERE d.role IN ('serving', 'draining');

CREATE VIEW reported_entry AS
SELECT e.id, d.subnet, d.cluster, e.address, e.identifiers, e.hostname, e.source, e.created
FROM delivery d JOIN subnet s ON s.id = d.subnet
JOIN server_entry e ON e.cluster = d.cluster
    AND e.address BETWEEN host(network(s.cidr))::inet AND host(broadcast(s.cidr))::inet
WHERE d.role IN ('serving', 'draining');

-- Whoever changes whether a cluster speaks for a subnet holds the subnet's lock. What it says of other subnets, and the
-- rest of this one, costs nothing: a batch does this, and a subnet of a million reservations takes seconds.
CREATE FUNCTION delivery_speaks() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    first inet;
    last inet;
BEGIN
    SELECT min(said.low), max(said.high) INTO first, last
    FROM (SELECT host(network(s.cidr))::inet AS low, host(broadcast(s.cidr))::inet AS high
          FROM subnet s WHERE s.id = NEW.subnet) net
    CROSS JOIN LATERAL (
        SELECT greatest(p.low, net.low) AS low, least(p.high, net.high) AS high FROM server_pool p
        WHERE p.cluster = NEW.cluster AND p.low <= net.high AND p.high >= net.low
        UNION ALL
        SELECT e.address, e.address FROM server_entry e
        WHERE e.cluster = NEW.cluster AND e.address BETWEEN net.low AND net.high) said;
    IF first IS NOT NULL THEN
        PERFORM rebuild_free_ranges(NEW.subnet, first, last);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER delivery_begins AFTER INSERT ON delivery
    FOR EACH ROW WHEN (NEW.role <> 'former') EXECUTE FUNCTION delivery_speaks();
CREATE TRIGGER delivery_speaks AFTER UPDATE OF role ON delivery
    FOR EACH ROW WHEN ((OLD.role = 'former') <> (NEW.role = 'former')) EXECUTE FUNCTION delivery_speaks();
