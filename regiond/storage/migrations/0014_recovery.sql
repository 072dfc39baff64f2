-- History and recovery (see `regiond/domain/recovery.py`), and how far back differences of host maps reach.

ALTER TABLE region
    ADD COLUMN recovering_since timestamptz,
    ADD COLUMN recovery_reason text;

-- The pasts that this database knows of beside its own: those that ended with a recovery, and those that clusters had.
CREATE TABLE former_history (
    history uuid PRIMARY KEY,
    noted timestamptz NOT NULL DEFAULT now(),
    reason text NOT NULL
);

-- What each regiond counts up as long as it runs, and keeps a copy of outside of the database: a database that has
-- less than the copy went back.
CREATE TABLE witness (
    regiond uuid PRIMARY KEY,
    beats bigint NOT NULL,
    last_beat timestamptz NOT NULL DEFAULT now()
);

-- Tombstones up to `horizon` are gone: a difference from below it cannot be made. While `recovering_since` is set nothing
-- is claimed or delivered. `fork_generation` and `fork_at`: where the latest recovery began. `evidence_generation`:
-- the highest generation of a former past that was taken into account since then.
ALTER TABLE subnet
    ADD COLUMN horizon bigint NOT NULL DEFAULT 0,
    ADD COLUMN recovering_since timestamptz,
    ADD COLUMN fork_generation bigint,
    ADD COLUMN fork_at timestamptz,
    ADD COLUMN evidence_generation bigint;
CREATE INDEX subnet_recovering ON subnet (id) WHERE recovering_since IS NOT NULL;
CREATE INDEX host_map_tombstone ON host_map (subnet, generation) WHERE removed;

-- Since the recovery began it is not known what the cluster has.
ALTER TABLE cluster ADD COLUMN unheard boolean NOT NULL DEFAULT false;

ALTER TABLE reservation DROP CONSTRAINT reservation_kind_check,
    ADD CONSTRAINT reservation_kind_check CHECK (kind IN ('device', 'node', 'user', 'recovered'));

-- What a cluster has from a past that is not this database's, as it handed it up. `name` is the subnet's id as the
-- cluster knows it; `subnet` is the one of this database with the same id or, failing that, the same network.
CREATE TABLE evidence (
    cluster bigint NOT NULL REFERENCES cluster ON DELETE CASCADE,
    name text NOT NULL,
    subnet bigint REFERENCES subnet ON DELETE CASCADE,
    cidr cidr NOT NULL,
    history uuid NOT NULL,
    accepted_generation bigint NOT NULL,
    applied_generation bigint NOT NULL,
    complete boolean NOT NULL DEFAULT false,
    settled boolean NOT NULL DEFAULT false,
    taken timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (cluster, name)
);
CREATE INDEX evidence_subnet ON evidence (subnet);

-- `former`: the cluster has accepted its removal, which its DHCP server may not have done.
-- `undecided`: the region had it otherwise when its subnet began to be settled, and nothing was decided about it yet.
CREATE TABLE evidence_map (
    cluster bigint NOT NULL,
    name text NOT NULL,
    kind text NOT NULL,
    identifier bytea NOT NULL,
    address inet NOT NULL,
    hostname text,
    former boolean NOT NULL DEFAULT false,
    undecided boolean NOT NULL DEFAULT false,
    PRIMARY KEY (cluster, name, kind, identifier, former, address),
    FOREIGN KEY (cluster, name) REFERENCES evidence ON DELETE CASCADE
);

-- What a recovery did, and what a person has to look at.
CREATE TABLE recovery_finding (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    history uuid NOT NULL,
    kind text NOT NULL,
    subnet bigint REFERENCES subnet ON DELETE CASCADE,
    address inet,
    reservation bigint,
    detail text NOT NULL
);
CREATE INDEX recovery_finding_history ON recovery_finding (history, id);

-- request: {"subnets": [{"id", "want"}], "addresses": [{"subnet", "before", "address"}],
--           "identifiers": [{"subnet", "kind", "identifier"}], "keys": [{"account", "key"}],
--           "quotas": [{"account", "subnet"}]} (owners of user claims)
-- `want` is how many lowest free ranges to read; `before` is the address below `address` (a free range that ends
-- there is a neighbour). Rows come tagged; the caller holds the subnets' locks and runs this as a statement of
-- its own, so that it sees what was committed while it waited for them.
CREATE FUNCTION batch_facts(request jsonb) RETURNS TABLE (tag text, fact jsonb)
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off AS $$
BEGIN
    RETURN QUERY SELECT 'now', to_jsonb(now());
    RETURN QUERY
    SELECT 'subnet', jsonb_build_object(
            'id', s.id, 'cidr', s.cidr, 'vrf', v.name, 'generation', s.generation, 'digest', s.digest,
            'hold', s.release_hold_seconds,
            'recovering', s.recovering_since IS NOT NULL, 'probes', s.probe, 'claimants', to_jsonb(s.claimants),
            'was_served', EXISTS (SELECT FROM delivery d WHERE d.subnet = s.id),
            'awaits', CASE WHEN s.claimable_anyway THEN '{}'::text[] ELSE ARRAY(
                SELECT c.name FROM delivery d JOIN cluster c ON c.id = d.cluster
                WHERE d.subnet = s.id AND d.role = 'serving' AND c.contact = 'awaited' ORDER BY c.name) END,
            'free', (SELECT coalesce(jsonb_agg(jsonb_build_array(host(f.low), host(f.high))), '[]'::jsonb) FROM (
                SELECT fr.low, fr.high FROM free_range fr WHERE fr.subnet = s.id ORDER BY fr.high
                LIMIT q.want + CASE WHEN s.probe THEN 64 ELSE 0 END) f))
    FROM jsonb_to_recordset(request->'subnets') AS q(id bigint, want integer)
    JOIN subnet s ON s.id = q.id JOIN vrf v ON v.id = s.vrf;

    RETURN QUERY
    SELECT 'delivery', jsonb_build_object(
            'subnet', d.subnet, 'cluster', d.cluster, 'cluster_name', c.name, 'role', d.role,
            'connected', c.connected_since IS NOT NULL AND c.last_heard > now() - interval '60 s',
            'accepted_generation', d.accepted_generation,
            'applied_generation', d.applied_generation, 'error', d.error, 'since', d.since,
            'epoch', c.epoch, 'unheard', c.unheard)
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
        RETURN QUERY
        SELECT 'obstacle', jsonb_build_object('subnet', q.subnet, 'address', host(q.address),
                'kind', 'in-use', 'low', host(q.address), 'high', host(q.address), 'cluster', c.name, 'mac', u.mac)
        FROM jsonb_to_recordset(request->'addresses') AS q(subnet bigint, address inet)
        JOIN address_in_use u ON u.subnet = q.subnet AND u.address = q.address
        JOIN cluster c ON c.id = u.cluster;
    END IF;

    IF jsonb_array_length(request->'identifiers') > 0 THEN
        RETURN QUERY
        SELECT 'map', to_jsonb(m) || jsonb_build_object('identifier', encode(m.identifier, 'hex'), 'address', host(m.address))
        FROM jsonb_to_recordset(request->'identifiers') AS q(subnet bigint, kind text, identifier text)
        JOIN host_map m ON m.subnet = q.subnet AND m.kind = q.kind AND m.identifier = decode(q.identifier, 'hex');
        -- The holder of a matching map, and all maps of that holder: most claims match none.
        IF FOUND THEN
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
