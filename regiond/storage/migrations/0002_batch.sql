-- A batch of mutations is one round trip to read (batch_facts, in 0014) and one to write (batch_write), as functions: their
-- plans are kept by the connection. Planner settings are pinned: with generic plans PostgreSQL otherwise turns a look-up
-- of a few keys into a sequential scan of the reservations (30 ms a batch at 100k rows).

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
                confirmed_at, free_at, probed)
        SELECT subnet, address, id, kind, status, owner, ARRAY(SELECT jsonb_array_elements_text(macs)), client_id,
                duid, alias, hostname, device, node, purpose, comment, "group", expires_at, map_generation,
                release_generation, confirmed_at, free_at, probed
        FROM jsonb_to_recordset(changes->'reservations_new') AS q(subnet bigint, address inet, id bigint, kind text,
                status text, owner bigint, macs jsonb, client_id text, duid text, alias text, hostname text,
                device bigint, node bigint, purpose text, comment text, "group" bigint, expires_at timestamptz,
                map_generation bigint, release_generation bigint, confirmed_at timestamptz, free_at timestamptz,
                probed boolean);
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
        -- What a server would not take was another map. Mostly there is none.
        IF EXISTS (SELECT FROM rejected_map) THEN
            DELETE FROM rejected_map m
            USING jsonb_to_recordset(changes->'maps') AS q(subnet bigint, kind text, identifier text)
            WHERE m.subnet = q.subnet AND m.kind = q.kind AND m.identifier = decode(q.identifier, 'hex');
        END IF;
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
    -- Every holder has applied the removals up to `generation`: from now on the release hold runs. A cluster that was
    -- away confirms very many at once: what is too much for one batch is left to the sweep (Sweeps.confirm_rest).
    IF changes ? 'confirmed' THEN
        UPDATE reservation r SET confirmed_at = now(), free_at = now() + make_interval(secs => w.hold)
        FROM (SELECT m.subnet, m.address, s.release_hold_seconds AS hold
              FROM jsonb_to_recordset(changes->'confirmed') AS q(subnet bigint, generation bigint)
              JOIN subnet s ON s.id = q.subnet
              CROSS JOIN LATERAL (SELECT u.subnet, u.address FROM reservation u
                  WHERE u.subnet = q.subnet AND u.status = 'releasing' AND u.release_generation <= q.generation
                    AND u.confirmed_at IS NULL ORDER BY u.release_generation LIMIT 10000) m
              LIMIT 10000) w
        WHERE r.subnet = w.subnet AND r.address = w.address;
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
