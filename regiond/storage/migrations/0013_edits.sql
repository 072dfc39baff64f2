-- works for regionds that know 0002
-- What a batch needs beyond 0002 when devices, nodes and reservations are edited: functions of their own, so that
-- batches without edits cost what they did.

-- request: {"devices": [id], "nodes": [id]}. The rows are locked, so that the ones that come with them are all there
-- are: a claim for a node waits at the node's row until the edit is committed (see batch_write).
CREATE FUNCTION owner_facts(request jsonb) RETURNS TABLE (tag text, fact jsonb)
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off AS $$
BEGIN
    PERFORM FROM device d WHERE d.id IN (SELECT jsonb_array_elements_text(request->'devices')::bigint)
    ORDER BY d.id FOR UPDATE;
    PERFORM FROM node n WHERE n.id IN (SELECT jsonb_array_elements_text(request->'nodes')::bigint)
    ORDER BY n.id FOR UPDATE;
    RETURN QUERY
    SELECT 'device', jsonb_build_object('id', d.id, 'hostname', d.hostname, 'owner', d.owner, 'owner_name', a.name,
            'comment', d.comment,
            'held', (SELECT coalesce(jsonb_agg(r.id), '[]'::jsonb) FROM reservation r
                     WHERE r.device = d.id AND r.status = 'active'))
    FROM device d JOIN account a ON a.id = d.owner
    WHERE d.id IN (SELECT jsonb_array_elements_text(request->'devices')::bigint);
    RETURN QUERY
    SELECT 'node', jsonb_build_object('id', n.id, 'hostname', n.hostname, 'owner', n.owner, 'owner_name', a.name,
            'comment', n.comment,
            'macs', (SELECT coalesce(jsonb_agg(m.mac ORDER BY m.mac), '[]'::jsonb) FROM node_mac m WHERE m.node = n.id),
            'held', (SELECT coalesce(jsonb_agg(r.id), '[]'::jsonb) FROM reservation r
                     WHERE r.node = n.id AND r.status = 'active'))
    FROM node n JOIN account a ON a.id = n.owner
    WHERE n.id IN (SELECT jsonb_array_elements_text(request->'nodes')::bigint);
END $$;

-- edits: {"reservations": [...], "devices": [...], "nodes": [...]}, see regiond/storage/batch.py. Runs after
-- batch_write, which writes the host maps and everything else.
CREATE FUNCTION batch_edit(edits jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off AS $$
BEGIN
    UPDATE device d SET hostname = q.hostname, owner = q.owner, comment = q.comment
    FROM jsonb_to_recordset(edits->'devices') AS q(id bigint, hostname text, owner bigint, comment text)
    WHERE d.id = q.id;
    UPDATE node n SET hostname = q.hostname, owner = q.owner, comment = q.comment
    FROM jsonb_to_recordset(edits->'nodes') AS q(id bigint, hostname text, owner bigint, comment text)
    WHERE n.id = q.id;
    DELETE FROM node_mac m USING jsonb_to_recordset(edits->'nodes') AS q(id bigint, macs jsonb)
    WHERE m.node = q.id AND NOT q.macs ? m.mac;
    INSERT INTO node_mac (node, mac)
    SELECT q.id, wanted.mac FROM jsonb_to_recordset(edits->'nodes') AS q(id bigint, macs jsonb),
        jsonb_array_elements_text(q.macs) AS wanted(mac)
    WHERE NOT EXISTS (SELECT FROM node_mac m WHERE m.mac = wanted.mac AND m.node = q.id);
    UPDATE reservation r SET owner = q.owner, macs = ARRAY(SELECT jsonb_array_elements_text(q.macs)),
            hostname = q.hostname, comment = q.comment, expires_at = q.expires_at, map_generation = q.map_generation
    FROM jsonb_to_recordset(edits->'reservations') AS q(subnet bigint, address inet, owner bigint, macs jsonb,
            hostname text, comment text, expires_at timestamptz, map_generation bigint)
    WHERE r.subnet = q.subnet AND r.address = q.address;
END $$;

-- A claim for a node is planned for the owner that the node had then.
CREATE FUNCTION check_node_owner() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM node n WHERE n.id = NEW.node AND n.owner <> NEW.owner) THEN
        RAISE foreign_key_violation USING MESSAGE = 'a node of this batch has another owner';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER reservation_node_owner BEFORE INSERT ON reservation
    FOR EACH ROW WHEN (NEW.kind = 'node') EXECUTE FUNCTION check_node_owner();
