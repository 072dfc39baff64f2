-- The two halves of a batch of mutations, as functions: their plans are kept by the connection, and a batch is
-- one round trip to read and one to write. Planner settings are pinned: with generic plans PostgreSQL otherwise
-- turns a look-up of a few keys into a sequential scan of the reservations (30 ms a batch at 100k rows).

CREATE FUNCTION reservation_json(r reservation) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT to_jsonb(r) || jsonb_build_object(
        'address', host(r.address),
        'cidr', s.cidr, 'vrf', v.name, 'owner_name', a.name)
    FROM subnet s, vrf v, account a
    WHERE s.id = r.subnet AND v.id = s.vrf AND a.id = r.owner
$$;

-- Batches that were committed: when a connection dies at its COMMIT, the writer looks here whether it happened.
CREATE TABLE batch (
    id uuid PRIMARY KEY,
    committed timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX batch_committed ON batch (committed);

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
            'was_served', EXISTS (SELECT FROM delivery d WHERE d.subnet = s.id),
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

-- changes: lists of rows by table, see `regiond/storage/batch.py`. The order matters: rows go before their
-- successors at the same address come. Returns nothing; a unique violation is the judge of last resort.
CREATE FUNCTION batch_write(changes jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off AS $$
DECLARE
    claimed bigint;
BEGIN
    INSERT INTO batch (id) VALUES ((changes->>'batch')::uuid);
    IF changes ? 'reservations_gone' THEN
        DELETE FROM reservation r USING jsonb_to_recordset(changes->'reservations_gone') AS q(subnet bigint, address inet)
        WHERE r.subnet = q.subnet AND r.address = q.address;
    END IF;
    IF changes ? 'devices_new' THEN
        INSERT INTO device (id, hostname, owner, comment)
        SELECT id, hostname, owner, comment
        FROM jsonb_to_recordset(changes->'devices_new') AS q(id bigint, hostname text, owner bigint, comment text);
    END IF;
    IF changes ? 'devices_gone' THEN
        DELETE FROM device WHERE id IN (SELECT jsonb_array_elements_text(changes->'devices_gone')::bigint);
    END IF;
    IF changes ? 'nodes_gone' THEN
        DELETE FROM node WHERE id IN (SELECT jsonb_array_elements_text(changes->'nodes_gone')::bigint);
    END IF;
    -- Reservations have no foreign key to their node, since a releasing one outlives it. An active one must not: a claim
    -- and a deletion at the same time wait for each other at the node's row, and the second one is refused.
    IF changes ? 'nodes_claimed' THEN
        SELECT count(*) INTO claimed FROM (
            SELECT FROM node n WHERE n.id IN (SELECT jsonb_array_elements_text(changes->'nodes_claimed')::bigint)
            ORDER BY n.id FOR KEY SHARE) living;
        IF claimed < jsonb_array_length(changes->'nodes_claimed') THEN
            RAISE foreign_key_violation USING MESSAGE = 'a node of this batch is gone';
        END IF;
    END IF;
    IF changes ? 'reservations_new' THEN
        INSERT INTO reservation (subnet, address, id, kind, status, owner, macs, client_id, duid, alias, hostname,
                device, node, purpose, comment, "group", expires_at, map_generation, release_generation,
                confirmed_at, free_at)
        SELECT subnet, address, id, kind, status, owner, ARRAY(SELECT jsonb_array_elements_text(macs)), client_id,
                duid, alias, hostname, device, node, purpose, comment, "group", expires_at, map_generation,
                release_generation, confirmed_at, free_at
        FROM jsonb_to_recordset(changes->'reservations_new') AS q(subnet bigint, address inet, id bigint, kind text,
                status text, owner bigint, macs jsonb, client_id text, duid text, alias text, hostname text,
                device bigint, node bigint, purpose text, comment text, "group" bigint, expires_at timestamptz,
                map_generation bigint, release_generation bigint, confirmed_at timestamptz, free_at timestamptz);
    END IF;
    IF changes ? 'counts' THEN
        INSERT INTO reservation_count AS c (account, subnet, reservations)
        SELECT account, subnet, difference
        FROM jsonb_to_recordset(changes->'counts') AS q(account bigint, subnet bigint, difference bigint)
        ON CONFLICT (account, subnet) DO UPDATE SET reservations = c.reservations + excluded.reservations;
    END IF;
    IF changes ? 'reservations_changed' THEN
        UPDATE reservation r SET status = q.status, release_generation = q.release_generation,
                confirmed_at = q.confirmed_at, free_at = q.free_at
        FROM jsonb_to_recordset(changes->'reservations_changed') AS q(subnet bigint, address inet, status text,
                release_generation bigint, confirmed_at timestamptz, free_at timestamptz)
        WHERE r.subnet = q.subnet AND r.address = q.address;
    END IF;
    IF changes ? 'nodes_gone' THEN
        IF EXISTS (SELECT FROM reservation r
                   WHERE r.node IN (SELECT jsonb_array_elements_text(changes->'nodes_gone')::bigint)
                     AND r.status = 'active') THEN
            RAISE foreign_key_violation USING MESSAGE = 'a node that is deleted still has an address';
        END IF;
    END IF;
    IF changes ? 'maps' THEN
        INSERT INTO host_map (subnet, kind, identifier, address, hostname, reservation, generation, removed,
                request_id)
        SELECT subnet, kind, decode(identifier, 'hex'), address, hostname, reservation, generation, removed,
                request_id
        FROM jsonb_to_recordset(changes->'maps') AS q(subnet bigint, kind text, identifier text, address inet,
                hostname text, reservation bigint, generation bigint, removed boolean, request_id text)
        ON CONFLICT (subnet, kind, identifier) DO UPDATE SET address = excluded.address,
                hostname = excluded.hostname, reservation = excluded.reservation,
                generation = excluded.generation, removed = excluded.removed, request_id = excluded.request_id;
        -- What a server would not take was another map.
        DELETE FROM rejected_map m
        USING jsonb_to_recordset(changes->'maps') AS q(subnet bigint, kind text, identifier text)
        WHERE m.subnet = q.subnet AND m.kind = q.kind AND m.identifier = decode(q.identifier, 'hex');
    END IF;
    IF changes ? 'subnets' THEN
        UPDATE subnet s SET generation = q.generation, digest = q.digest
        FROM jsonb_to_recordset(changes->'subnets') AS q(id bigint, generation bigint, digest bigint)
        WHERE s.id = q.id;
    END IF;
    IF changes ? 'free_gone' THEN
        DELETE FROM free_range f USING jsonb_to_recordset(changes->'free_gone') AS q(subnet bigint, high inet)
        WHERE f.subnet = q.subnet AND f.high = q.high;
    END IF;
    IF changes ? 'free_put' THEN
        INSERT INTO free_range (subnet, low, high)
        SELECT subnet, low, high FROM jsonb_to_recordset(changes->'free_put') AS q(subnet bigint, low inet, high inet)
        ON CONFLICT (subnet, high) DO UPDATE SET low = excluded.low;
    END IF;
    IF changes ? 'deliveries' THEN
        UPDATE delivery d SET role = q.role, accepted_generation = q.accepted_generation,
                applied_generation = q.applied_generation, error = q.error, since = now()
        FROM jsonb_to_recordset(changes->'deliveries') AS q(subnet bigint, cluster bigint, role text,
                accepted_generation bigint, applied_generation bigint, error text)
        WHERE d.subnet = q.subnet AND d.cluster = q.cluster;
    END IF;
    IF changes ? 'rejected' THEN
        DELETE FROM rejected_map m USING jsonb_to_recordset(changes->'rejected') AS q(subnet bigint, cluster bigint)
        WHERE m.subnet = q.subnet AND m.cluster = q.cluster;
        INSERT INTO rejected_map (subnet, cluster, kind, identifier, reason)
        SELECT q.subnet, q.cluster, r.kind, decode(r.identifier, 'hex'), r.reason
        FROM jsonb_to_recordset(changes->'rejected') AS q(subnet bigint, cluster bigint, maps jsonb),
             jsonb_to_recordset(q.maps) AS r(kind text, identifier text, reason text)
        ON CONFLICT DO NOTHING;
    END IF;
    -- Every holder has applied the removals up to `generation`: from now on the release hold runs.
    IF changes ? 'confirmed' THEN
        UPDATE reservation r SET confirmed_at = now(), free_at = now() + make_interval(secs => s.release_hold_seconds)
        FROM jsonb_to_recordset(changes->'confirmed') AS q(subnet bigint, generation bigint)
        JOIN subnet s ON s.id = q.subnet
        WHERE r.subnet = q.subnet AND r.status = 'releasing' AND r.release_generation <= q.generation
          AND r.confirmed_at IS NULL;
    END IF;
    IF changes ? 'audit' THEN
        INSERT INTO audit (account, actor, action, object, before, after, request_id)
        SELECT account, actor, action, object, before, after, request_id
        FROM jsonb_to_recordset(changes->'audit') AS q(account bigint, actor text, action text, object text,
                before jsonb, after jsonb, request_id text);
    END IF;
    IF changes ? 'answers' THEN
        INSERT INTO idempotency (account, key, fingerprint, answer)
        SELECT account, key, fingerprint, answer
        FROM jsonb_to_recordset(changes->'answers') AS q(account bigint, key text, fingerprint text, answer text);
    END IF;
END $$;
