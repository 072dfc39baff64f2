-- What happened, for those who follow it (regiond/use_cases/events.py). Triggers write it in the transaction of the change itself,
-- so that no way of changing something can forget to.
-- works for regionds that know 0002

-- `id` is in the order of writing, which is not that of commits: a reader that goes by it misses what commits late.
-- `position` is given after the commit (number_events), so that whoever sees one sees all before it.
CREATE TABLE event (
    id bigint GENERATED ALWAYS AS IDENTITY,
    position bigint,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind text NOT NULL CHECK (kind IN ('reservation', 'host-map', 'cluster')),
    action text NOT NULL,
    subnet bigint,
    cluster bigint,
    cluster_name text,
    reservation bigint,
    reservation_kind text,
    address inet,
    owner bigint,
    device bigint,
    node bigint,
    from_generation bigint,
    to_generation bigint,
    error text
);
CREATE UNIQUE INDEX event_position ON event (position) WHERE position IS NOT NULL;
CREATE INDEX event_waiting ON event (id) WHERE position IS NULL;

-- `last` is the last position that was given, `gone` the last one that is not kept any more.
CREATE TABLE event_feed (
    single_row boolean PRIMARY KEY DEFAULT true CHECK (single_row),
    last bigint NOT NULL DEFAULT 0,
    gone bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
INSERT INTO event_feed DEFAULT VALUES;

-- Gives positions to what is committed, at most 10,000 events at a time; how many. Of several that do so one waits for
-- the other, so that positions become visible in their order and without gaps.
CREATE FUNCTION number_events() RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    numbered bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM event WHERE position IS NULL) THEN
        RETURN 0;
    END IF;
    PERFORM FROM event_feed FOR UPDATE;
    WITH waiting AS (
        SELECT w.id, row_number() OVER (ORDER BY w.id) AS place
        FROM (SELECT e.id FROM event e WHERE e.position IS NULL ORDER BY e.id LIMIT 10000) w
    ), done AS (
        UPDATE event e SET position = f.last + w.place FROM waiting w, event_feed f
        WHERE e.id = w.id AND e.position IS NULL
        RETURNING 1
    )
    UPDATE event_feed SET last = last + (SELECT count(*) FROM done) RETURNING (SELECT count(*) FROM done) INTO numbered;
    RETURN numbered;
END $$;

-- Forgets what is older than `keep` or beyond the last `most` events, at most 10,000 at a time; how many.
CREATE FUNCTION prune_events(keep interval, most bigint) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    upto bigint;
    before bigint;
BEGIN
    PERFORM number_events();
    SELECT f.gone, greatest(f.last - most, coalesce(
        (SELECT e.position - 1 FROM event e WHERE e.position IS NOT NULL AND e.at >= now() - keep
         ORDER BY e.position LIMIT 1), f.last))
    INTO before, upto FROM event_feed f FOR UPDATE;
    upto := least(upto, before + 10000);
    IF upto <= before THEN
        RETURN 0;
    END IF;
    DELETE FROM event e WHERE e.position <= upto;
    UPDATE event_feed SET gone = upto;
    RETURN upto - before;
END $$;

-- ---- reservations ----

CREATE FUNCTION reservation_claimed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO event (kind, action, subnet, reservation, reservation_kind, address, owner, device, node)
    SELECT 'reservation', 'claimed', subnet, id, kind, address, owner, device, node FROM made ORDER BY subnet, address;
    RETURN NULL;
END $$;
CREATE TRIGGER reservation_claimed AFTER INSERT ON reservation
    REFERENCING NEW TABLE AS made FOR EACH STATEMENT EXECUTE FUNCTION reservation_claimed();

-- Who had it before is told, too: it sees the reservation for the last time. Planner settings: those of batch_write forbid
-- hash joins, and neither table has an index, so that ten thousand rows would be compared with each other.
CREATE FUNCTION reservation_changed() RETURNS trigger LANGUAGE plpgsql
SET enable_hashjoin = on SET enable_nestloop = off AS $$
BEGIN
    INSERT INTO event (kind, action, subnet, reservation, reservation_kind, address, owner, device, node)
    SELECT 'reservation', told.action, n.subnet, n.id, n.kind, n.address, told.owner, n.device, n.node
    FROM now_so n JOIN before_so b ON b.subnet = n.subnet AND b.address = n.address
    CROSS JOIN LATERAL (
        SELECT 'given-away', b.owner WHERE b.owner <> n.owner
        UNION ALL
        SELECT CASE WHEN b.owner <> n.owner THEN 'received'
                    WHEN b.status <> n.status THEN n.status
                    ELSE 'changed' END, n.owner
    ) AS told(action, owner)
    WHERE b IS DISTINCT FROM n
    ORDER BY n.subnet, n.address;
    RETURN NULL;
END $$;
CREATE TRIGGER reservation_changed AFTER UPDATE ON reservation
    REFERENCING OLD TABLE AS before_so NEW TABLE AS now_so FOR EACH STATEMENT EXECUTE FUNCTION reservation_changed();

CREATE FUNCTION reservation_freed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO event (kind, action, subnet, reservation, reservation_kind, address, owner, device, node)
    SELECT 'reservation', 'free', subnet, id, kind, address, owner, device, node FROM gone ORDER BY subnet, address;
    RETURN NULL;
END $$;
CREATE TRIGGER reservation_freed AFTER DELETE ON reservation
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION reservation_freed();

-- ---- host maps on clusters ----

-- Which host maps it was is found when the event is read: those of the generations from `from_generation` on.
CREATE FUNCTION delivery_progressed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO event (kind, action, subnet, cluster, from_generation, to_generation, error)
    VALUES ('host-map', CASE WHEN NEW.error IS NULL THEN 'applied' ELSE 'failed' END, NEW.subnet, NEW.cluster,
            least(OLD.applied_generation, NEW.applied_generation), NEW.applied_generation, NEW.error);
    RETURN NULL;
END $$;
CREATE TRIGGER delivery_progressed AFTER UPDATE ON delivery FOR EACH ROW
    WHEN (OLD.applied_generation <> NEW.applied_generation OR OLD.error IS DISTINCT FROM NEW.error)
    EXECUTE FUNCTION delivery_progressed();

CREATE FUNCTION delivery_role_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO event (kind, action, subnet, cluster)
    VALUES ('cluster', CASE NEW.role WHEN 'former' THEN 'not-serving' ELSE NEW.role END, NEW.subnet, NEW.cluster);
    RETURN NULL;
END $$;
CREATE TRIGGER delivery_made AFTER INSERT ON delivery FOR EACH ROW EXECUTE FUNCTION delivery_role_changed();
CREATE TRIGGER delivery_role_changed AFTER UPDATE ON delivery FOR EACH ROW
    WHEN (OLD.role <> NEW.role) EXECUTE FUNCTION delivery_role_changed();

-- ---- clusters ----

CREATE FUNCTION cluster_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    what text := 'changed';
    called text := NEW.name;
BEGIN
    IF TG_OP = 'INSERT' THEN
        what := 'new';
    ELSIF NEW.forgotten IS NOT NULL AND OLD.forgotten IS NULL THEN
        what := 'forgotten';
        called := OLD.name;
    ELSIF NEW.revoked IS NOT NULL AND OLD.revoked IS NULL THEN
        what := 'revoked';
    ELSIF NEW.connected_since IS NULL AND OLD.connected_since IS NOT NULL THEN
        what := 'disconnected';
    ELSIF NEW.connected_since IS DISTINCT FROM OLD.connected_since THEN
        what := 'connected';
    END IF;
    INSERT INTO event (kind, action, cluster, cluster_name) VALUES ('cluster', what, NEW.id, called);
    RETURN NULL;
END $$;
CREATE TRIGGER cluster_made AFTER INSERT ON cluster FOR EACH ROW EXECUTE FUNCTION cluster_changed();
-- What is written at every heartbeat is no news.
CREATE TRIGGER cluster_changed AFTER UPDATE ON cluster FOR EACH ROW
    WHEN ((OLD.name, OLD.vrf, OLD.hostname, OLD.backend, OLD.software_version, OLD.connected_since, OLD.enrolled,
           OLD.revoked, OLD.forgotten, OLD.contact, OLD.contact_error)
          IS DISTINCT FROM
          (NEW.name, NEW.vrf, NEW.hostname, NEW.backend, NEW.software_version, NEW.connected_since, NEW.enrolled,
           NEW.revoked, NEW.forgotten, NEW.contact, NEW.contact_error))
    EXECUTE FUNCTION cluster_changed();

-- One event for a report, however many interfaces it changes.
CREATE FUNCTION interfaces_made() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO event (kind, action, cluster) SELECT DISTINCT 'cluster', 'interfaces', cluster FROM made;
    RETURN NULL;
END $$;
CREATE TRIGGER interfaces_made AFTER INSERT ON cluster_interface
    REFERENCING NEW TABLE AS made FOR EACH STATEMENT EXECUTE FUNCTION interfaces_made();

CREATE FUNCTION interfaces_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO event (kind, action, cluster)
    SELECT DISTINCT 'cluster', 'interfaces', n.cluster FROM now_so n JOIN before_so b ON b.id = n.id
    WHERE (b.nic, b.cidr, b.subnet, b.addresses, b.gateways, b.mac, b.kind, b.vlan, b.up, b.present, b.serving)
          IS DISTINCT FROM
          (n.nic, n.cidr, n.subnet, n.addresses, n.gateways, n.mac, n.kind, n.vlan, n.up, n.present, n.serving);
    RETURN NULL;
END $$;
CREATE TRIGGER interfaces_changed AFTER UPDATE ON cluster_interface
    REFERENCING OLD TABLE AS before_so NEW TABLE AS now_so FOR EACH STATEMENT EXECUTE FUNCTION interfaces_changed();
