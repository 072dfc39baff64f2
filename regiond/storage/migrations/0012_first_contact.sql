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

-- As before, less what is reported.
CREATE OR REPLACE FUNCTION expected_free_ranges(the_subnet bigint, from_low inet DEFAULT NULL, to_high inet DEFAULT NULL)
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

-- Whoever changes whether a cluster speaks for a subnet holds the subnet's lock.
CREATE FUNCTION delivery_speaks() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM server_pool p WHERE p.cluster = NEW.cluster)
       OR EXISTS (SELECT FROM server_entry e WHERE e.cluster = NEW.cluster) THEN
        PERFORM rebuild_free_ranges(NEW.subnet);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER delivery_begins AFTER INSERT ON delivery
    FOR EACH ROW WHEN (NEW.role <> 'former') EXECUTE FUNCTION delivery_speaks();
CREATE TRIGGER delivery_speaks AFTER UPDATE OF role ON delivery
    FOR EACH ROW WHEN ((OLD.role = 'former') <> (NEW.role = 'former')) EXECUTE FUNCTION delivery_speaks();

-- As before, with who is awaited, and with the obstacles that are reported.
CREATE OR REPLACE FUNCTION batch_facts(request jsonb) RETURNS TABLE (tag text, fact jsonb)
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off AS $$
BEGIN
    RETURN QUERY SELECT 'now', to_jsonb(now());
    RETURN QUERY
    SELECT 'subnet', jsonb_build_object(
            'id', s.id, 'cidr', s.cidr, 'vrf', v.name, 'generation', s.generation, 'digest', s.digest,
            'hold', s.release_hold_seconds,
            'was_served', EXISTS (SELECT FROM delivery d WHERE d.subnet = s.id),
            'awaits', CASE WHEN s.claimable_anyway THEN '{}'::text[] ELSE ARRAY(
                SELECT c.name FROM delivery d JOIN cluster c ON c.id = d.cluster
                WHERE d.subnet = s.id AND d.role = 'serving' AND c.contact = 'awaited' ORDER BY c.name) END,
            'free', (SELECT coalesce(jsonb_agg(jsonb_build_array(host(f.low), host(f.high))), '[]'::jsonb) FROM (
                SELECT fr.low, fr.high FROM free_range fr WHERE fr.subnet = s.id ORDER BY fr.high LIMIT q.want) f))
    FROM jsonb_to_recordset(request->'subnets') AS q(id bigint, want integer)
    JOIN subnet s ON s.id = q.id JOIN vrf v ON v.id = s.vrf;

    RETURN QUERY
    SELECT 'delivery', jsonb_build_object(
            'subnet', d.subnet, 'cluster', d.cluster, 'cluster_name', c.name, 'role', d.role,
            'connected', c.connected_since IS NOT NULL AND c.last_heard > now() - interval '60 s',
            'accepted_generation', d.accepted_generation,
            'applied_generation', d.applied_generation, 'error', d.error, 'since', d.since)
    FROM jsonb_to_recordset(request->'subnets') AS q(id bigint)
    JOIN delivery d ON d.subnet = q.id JOIN cluster c ON c.id = d.cluster;

    IF jsonb_array_length(request->'addresses') > 0 THEN
        RETURN QUERY
        SELECT 'free', jsonb_build_array(q.subnet, host(f.low), host(f.high))
        FROM jsonb_to_recordset(request->'addresses') AS q(subnet bigint, before inet)
        CROSS JOIN LATERAL (SELECT fr.low, fr.high FROM free_range fr
            WHERE fr.subnet = q.subnet AND fr.high >= q.before ORDER BY fr.high LIMIT 2) f;
        RETURN QUERY
        SELECT 'reservation', reservation_json(r)
        FROM jsonb_to_recordset(request->'addresses') AS q(subnet bigint, address inet)
        JOIN reservation r ON r.subnet = q.subnet AND r.address = q.address;
        RETURN QUERY
        SELECT 'map', to_jsonb(m) || jsonb_build_object('identifier', encode(m.identifier, 'hex'), 'address', host(m.address))
        FROM jsonb_to_recordset(request->'addresses') AS q(subnet bigint, address inet)
        JOIN reservation r ON r.subnet = q.subnet AND r.address = q.address
        JOIN host_map m ON m.reservation = r.id;
        -- The static entry comes first: of several obstacles the first one is told, and this one can be adopted.
        RETURN QUERY
        SELECT 'obstacle', jsonb_build_object('subnet', q.subnet, 'address', host(q.address),
                'kind', 'static-entry', 'low', host(q.address), 'high', host(q.address), 'cluster', c.name)
        FROM jsonb_to_recordset(request->'addresses') AS q(subnet bigint, address inet)
        JOIN reported_entry e ON e.subnet = q.subnet AND e.address = q.address
        JOIN cluster c ON c.id = e.cluster;
        RETURN QUERY
        SELECT 'obstacle', jsonb_build_object('subnet', q.subnet, 'address', host(q.address),
                'kind', 'dynamic', 'low', host(p.low), 'high', host(p.high), 'cluster', c.name)
        FROM jsonb_to_recordset(request->'addresses') AS q(subnet bigint, address inet)
        JOIN reported_range p ON p.subnet = q.subnet AND q.address BETWEEN p.low AND p.high
        JOIN cluster c ON c.id = p.cluster;
        RETURN QUERY
        SELECT 'obstacle', jsonb_build_object('subnet', q.subnet, 'address', host(q.address),
                'kind', g.kind, 'low', host(g.low), 'high', host(g.high))
        FROM jsonb_to_recordset(request->'addresses') AS q(subnet bigint, address inet)
        JOIN address_range g ON g.subnet = q.subnet AND inetrange(g.low, g.high, '[]') @> q.address
        UNION ALL
        SELECT 'obstacle', jsonb_build_object('subnet', q.subnet, 'address', host(q.address),
                'kind', i.kind, 'low', host(i.address), 'high', host(i.address))
        FROM jsonb_to_recordset(request->'addresses') AS q(subnet bigint, address inet)
        JOIN infrastructure_address i ON i.subnet = q.subnet AND i.address = q.address;
    END IF;

    IF jsonb_array_length(request->'identifiers') > 0 THEN
        RETURN QUERY
        SELECT 'map', to_jsonb(m) || jsonb_build_object('identifier', encode(m.identifier, 'hex'), 'address', host(m.address))
        FROM jsonb_to_recordset(request->'identifiers') AS q(subnet bigint, kind text, identifier text)
        JOIN host_map m ON m.subnet = q.subnet AND m.kind = q.kind AND m.identifier = decode(q.identifier, 'hex');
        -- The holder of a matching map, and all maps of that holder.
        RETURN QUERY
        SELECT 'reservation', reservation_json(r)
        FROM jsonb_to_recordset(request->'identifiers') AS q(subnet bigint, kind text, identifier text)
        JOIN host_map m ON m.subnet = q.subnet AND m.kind = q.kind AND m.identifier = decode(q.identifier, 'hex')
        JOIN reservation r ON r.subnet = m.subnet AND r.address = m.address;
        RETURN QUERY
        SELECT 'map', to_jsonb(n) || jsonb_build_object('identifier', encode(n.identifier, 'hex'), 'address', host(n.address))
        FROM jsonb_to_recordset(request->'identifiers') AS q(subnet bigint, kind text, identifier text)
        JOIN host_map m ON m.subnet = q.subnet AND m.kind = q.kind AND m.identifier = decode(q.identifier, 'hex')
        JOIN host_map n ON n.reservation = m.reservation;
    END IF;

    IF jsonb_array_length(request->'keys') > 0 THEN
        RETURN QUERY
        SELECT 'answered', jsonb_build_object('account', i.account, 'key', i.key, 'fingerprint', i.fingerprint, 'answer', i.answer)
        FROM jsonb_to_recordset(request->'keys') AS q(account bigint, key text)
        JOIN idempotency i ON i.account = q.account AND i.key = q.key;
    END IF;

    -- A limit over all subnets is one that batches on different subnets share: they wait for each other here. The
    -- counts are read by a statement of their own, so that it sees what was committed meanwhile.
    IF jsonb_array_length(request->'quotas') > 0 THEN
        PERFORM FROM account a
        WHERE a.id IN (SELECT q.account FROM jsonb_to_recordset(request->'quotas') AS q(account bigint))
          AND a.max_reservations IS NOT NULL
        ORDER BY a.id FOR NO KEY UPDATE;
        RETURN QUERY
        SELECT 'quota', jsonb_build_object(
                'account', a.id, 'limit', a.max_reservations, 'limit_per_subnet', a.max_reservations_per_subnet,
                'used', (SELECT coalesce(sum(c.reservations), 0) FROM reservation_count c WHERE c.account = a.id),
                'used_on', (SELECT coalesce(jsonb_object_agg(c.subnet, c.reservations), '{}'::jsonb)
                    FROM jsonb_to_recordset(request->'quotas') AS q(account bigint, subnet bigint)
                    JOIN reservation_count c ON c.account = q.account AND c.subnet = q.subnet
                    WHERE q.account = a.id))
        FROM account a
        WHERE a.id IN (SELECT q.account FROM jsonb_to_recordset(request->'quotas') AS q(account bigint))
          AND (a.max_reservations IS NOT NULL OR a.max_reservations_per_subnet IS NOT NULL);
    END IF;
END $$;
