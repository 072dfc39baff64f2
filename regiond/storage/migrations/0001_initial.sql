-- The region's tables, in the glossary's words. PostgreSQL 15 or later.
-- Ids are 50 random bits (see regiond/domain/ids.py), so that a restore never hands an id out again.

CREATE EXTENSION IF NOT EXISTS btree_gist;
CREATE TYPE inetrange AS RANGE (subtype = inet, multirange_type_name = inetmultirange);

-- Who this region is. `history` changes when a database was restored or lost commits.
CREATE TABLE region (
    single_row boolean PRIMARY KEY DEFAULT true CHECK (single_row),
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    history uuid NOT NULL DEFAULT gen_random_uuid(),
    created timestamptz NOT NULL DEFAULT now()
);
INSERT INTO region DEFAULT VALUES;

-- ---- accounts ----

CREATE TABLE account (
    id bigint PRIMARY KEY,
    name text NOT NULL UNIQUE,
    role text NOT NULL CHECK (role IN ('admin', 'user')),
    disabled boolean NOT NULL DEFAULT false,
    max_reservations integer CHECK (max_reservations >= 0),
    max_reservations_per_subnet integer CHECK (max_reservations_per_subnet >= 0),
    created timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN account.max_reservations IS 'how many user reservations it may have at a time; NULL: no limit';

-- The secret itself is never stored: `hash` is SHA-256 of salt and secret, and the secret has 256 random bits.
CREATE TABLE token (
    id bigint PRIMARY KEY,
    account bigint NOT NULL REFERENCES account ON DELETE CASCADE,
    name text NOT NULL,
    salt bytea NOT NULL,
    hash bytea NOT NULL,
    read_only boolean NOT NULL DEFAULT false,
    created timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    UNIQUE (account, name)
);

-- ---- networks ----

CREATE TABLE vrf (
    id bigint PRIMARY KEY,
    name text NOT NULL UNIQUE
);
INSERT INTO vrf VALUES (1, 'default');

-- `generation` and `digest` are of the desired host maps. `first_usable` and `last_usable` bound what may be
-- claimed (network, broadcast and router anycast addresses are outside).
CREATE TABLE subnet (
    id bigint PRIMARY KEY,
    vrf bigint NOT NULL REFERENCES vrf,
    cidr cidr NOT NULL,
    first_usable inet NOT NULL,
    last_usable inet NOT NULL,
    generation bigint NOT NULL DEFAULT 0,
    digest bigint NOT NULL DEFAULT 0,
    release_hold_seconds integer NOT NULL DEFAULT 600 CHECK (release_hold_seconds >= 0),
    created timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT subnet_overlap EXCLUDE USING gist (vrf WITH =, cidr inet_ops WITH &&)
) WITH (fillfactor = 50);

-- Addresses that are never allocated: leased by the DHCP server itself, or kept back by an operator.
CREATE TABLE address_range (
    id bigint PRIMARY KEY,
    subnet bigint NOT NULL REFERENCES subnet ON DELETE CASCADE,
    low inet NOT NULL,
    high inet NOT NULL,
    kind text NOT NULL CHECK (kind IN ('dynamic', 'reserved')),
    comment text,
    created timestamptz NOT NULL DEFAULT now(),
    CHECK (low <= high),
    CONSTRAINT address_range_overlap EXCLUDE USING gist (subnet WITH =, inetrange(low, high, '[]') WITH &&)
);

-- An index of free space, rebuilt from the other tables by rebuild_free_ranges(). Keyed by the high end, so
-- that taking from the low end is a HOT update.
CREATE TABLE free_range (
    subnet bigint NOT NULL REFERENCES subnet ON DELETE CASCADE,
    low inet NOT NULL,
    high inet NOT NULL,
    PRIMARY KEY (subnet, high),
    CHECK (low <= high)
) WITH (fillfactor = 50);

-- ---- clusters ----

-- `epoch` counts connections; the newest one speaks for the cluster. Connected: `connected_since` is set and
-- `last_heard` is recent (a regiond that was killed cannot clear the former).
CREATE TABLE cluster (
    id bigint PRIMARY KEY,
    name text NOT NULL UNIQUE,
    vrf bigint NOT NULL DEFAULT 1 REFERENCES vrf,
    hostname text NOT NULL DEFAULT '',
    backend text NOT NULL DEFAULT '',
    software_version text NOT NULL DEFAULT '',
    epoch bigint NOT NULL DEFAULT 0,
    connected_since timestamptz,
    last_heard timestamptz,
    created timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

-- One NIC of a cluster controller on one subnet. `subnet` is NULL where the network overlaps another subnet
-- without being it (`serving` = 'conflict').
CREATE TABLE cluster_interface (
    id bigint PRIMARY KEY,
    cluster bigint NOT NULL REFERENCES cluster ON DELETE CASCADE,
    nic text NOT NULL,
    cidr cidr NOT NULL,
    subnet bigint REFERENCES subnet,
    addresses inet[] NOT NULL DEFAULT '{}',
    gateways inet[] NOT NULL DEFAULT '{}',
    mac text,
    kind text NOT NULL,
    vlan integer,
    up boolean NOT NULL,
    present boolean NOT NULL DEFAULT true,
    serving text NOT NULL CHECK (serving IN ('serving', 'shared-subnet', 'conflict')),
    first_seen timestamptz NOT NULL DEFAULT now(),
    last_changed timestamptz NOT NULL DEFAULT now(),
    UNIQUE (cluster, nic, cidr)
);
CREATE INDEX cluster_interface_subnet ON cluster_interface (subnet);

-- The gateway's and the controllers' own addresses, as the topology reports them.
CREATE TABLE infrastructure_address (
    subnet bigint NOT NULL REFERENCES subnet ON DELETE CASCADE,
    address inet NOT NULL,
    cluster bigint NOT NULL REFERENCES cluster ON DELETE CASCADE,
    kind text NOT NULL CHECK (kind IN ('gateway', 'controller')),
    PRIMARY KEY (subnet, address, cluster, kind)
);

-- What one cluster has of one subnet's host maps. A row stays as 'former' when the cluster has forgotten the
-- subnet: that it was served once decides whether a released address must rest.
CREATE TABLE delivery (
    subnet bigint NOT NULL REFERENCES subnet ON DELETE CASCADE,
    cluster bigint NOT NULL REFERENCES cluster ON DELETE CASCADE,
    role text NOT NULL CHECK (role IN ('serving', 'draining', 'former')),
    accepted_generation bigint NOT NULL DEFAULT 0,
    applied_generation bigint NOT NULL DEFAULT 0,
    error text,
    since timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (subnet, cluster)
) WITH (fillfactor = 50);
CREATE INDEX delivery_cluster ON delivery (cluster);

-- Host maps that a cluster's DHCP server would not take, in its own words.
CREATE TABLE rejected_map (
    subnet bigint NOT NULL,
    cluster bigint NOT NULL,
    kind text NOT NULL,
    identifier bytea NOT NULL,
    reason text NOT NULL,
    since timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (subnet, cluster, kind, identifier),
    FOREIGN KEY (subnet, cluster) REFERENCES delivery ON DELETE CASCADE
);

-- ---- who has what ----

CREATE TABLE device (
    id bigint PRIMARY KEY,
    hostname text,
    owner bigint NOT NULL REFERENCES account,
    comment text,
    created timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE node (
    id bigint PRIMARY KEY,
    hostname text NOT NULL UNIQUE,
    owner bigint NOT NULL REFERENCES account,
    comment text,
    created timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE node_mac (
    mac text PRIMARY KEY,
    node bigint NOT NULL REFERENCES node ON DELETE CASCADE
);
CREATE INDEX node_mac_node ON node_mac (node);

-- The one table that decides: every taken address of a subnet, whatever its kind, under one unique constraint.
-- No foreign keys to device and node: a releasing reservation outlives them.
CREATE TABLE reservation (
    subnet bigint NOT NULL REFERENCES subnet,
    address inet NOT NULL CHECK (masklen(address) = CASE family(address) WHEN 4 THEN 32 ELSE 128 END),
    id bigint NOT NULL UNIQUE,
    kind text NOT NULL CHECK (kind IN ('device', 'node', 'user')),
    status text NOT NULL CHECK (status IN ('active', 'releasing')),
    owner bigint NOT NULL REFERENCES account,
    macs text[] NOT NULL DEFAULT '{}',
    client_id text,
    duid text,
    alias text,
    hostname text,
    device bigint,
    node bigint,
    purpose text,
    comment text,
    "group" bigint,
    created timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    map_generation bigint,
    release_generation bigint,
    confirmed_at timestamptz,
    free_at timestamptz,
    PRIMARY KEY (subnet, address)
) WITH (fillfactor = 90);
CREATE INDEX reservation_device ON reservation (device) WHERE device IS NOT NULL;
CREATE INDEX reservation_node ON reservation (node) WHERE node IS NOT NULL;
CREATE INDEX reservation_owner ON reservation (owner, id) WHERE kind = 'user';
CREATE INDEX reservation_macs ON reservation USING gin (macs);
CREATE INDEX reservation_releasing ON reservation (subnet, release_generation)
    WHERE status = 'releasing' AND confirmed_at IS NULL;
CREATE INDEX reservation_free_at ON reservation (free_at) WHERE status = 'releasing' AND confirmed_at IS NOT NULL;
CREATE INDEX reservation_expires_at ON reservation (expires_at) WHERE expires_at IS NOT NULL;

-- How many user reservations each account has on each subnet, so that a limit costs no counting. Written by
-- batch_write() under the subnet's lock.
CREATE TABLE reservation_count (
    account bigint NOT NULL REFERENCES account ON DELETE CASCADE,
    subnet bigint NOT NULL REFERENCES subnet ON DELETE CASCADE,
    reservations bigint NOT NULL,
    PRIMARY KEY (account, subnet)
) WITH (fillfactor = 50);

-- Desired host maps, each with the request that last changed it. A removed one stays as a tombstone, so that a cluster that missed it can be told.
CREATE TABLE host_map (
    subnet bigint NOT NULL REFERENCES subnet ON DELETE CASCADE,
    kind text NOT NULL CHECK (kind IN ('mac', 'client-id', 'duid')),
    identifier bytea NOT NULL,
    address inet NOT NULL,
    hostname text,
    reservation bigint NOT NULL,
    generation bigint NOT NULL,
    removed boolean NOT NULL,
    request_id text NOT NULL,
    PRIMARY KEY (subnet, kind, identifier)
) WITH (fillfactor = 80);
-- `subnet + 0`, so that only what asks for changes since a generation can use it: before PostgreSQL has statistics it takes
-- an index on `subnet` for as good as the primary key, and reads all maps of the subnet to look up one.
CREATE INDEX host_map_generation ON host_map ((subnet + 0), generation);
CREATE INDEX host_map_reservation ON host_map (reservation);

-- ---- what happened ----

CREATE TABLE idempotency (
    account bigint NOT NULL REFERENCES account ON DELETE CASCADE,
    key text NOT NULL,
    fingerprint text NOT NULL,
    answer text NOT NULL,
    created timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, key)
);
CREATE INDEX idempotency_created ON idempotency (created);

CREATE TABLE audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    account bigint,
    actor text NOT NULL,
    action text NOT NULL,
    object text NOT NULL,
    before jsonb,
    after jsonb,
    request_id text NOT NULL
);
CREATE INDEX audit_object ON audit (object, id);
CREATE INDEX audit_request_id ON audit (request_id, id);
-- Who looks for an action looks for a rare one; the frequent ones would pay for the index and are found without it.
CREATE INDEX audit_rare_action ON audit (action, id)
    WHERE action NOT IN ('reservation.claim', 'reservation.release', 'reservation.free');

-- ---- functions ----

-- Called under the subnet's lock; returns how many rows it wrote, which are only those that differ. With bounds only
-- that part is recomputed, with the free ranges that overlap or touch it (neighbours become one): a range that is
-- added to a subnet of a million reservations costs what lies in the range.
CREATE FUNCTION rebuild_free_ranges(the_subnet bigint, from_low inet DEFAULT NULL, to_high inet DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    first inet;
    last inet;
    written bigint;
BEGIN
    SELECT host(network(s.cidr))::inet, host(broadcast(s.cidr))::inet INTO first, last FROM subnet s WHERE s.id = the_subnet;
    IF from_low IS NOT NULL THEN
        SELECT least(from_low, min(f.low)), greatest(to_high, max(f.high)) INTO first, last
        FROM free_range f
        WHERE f.subnet = the_subnet
          AND f.high >= CASE WHEN from_low > first THEN from_low - 1 ELSE first END
          AND f.low <= CASE WHEN to_high < last THEN to_high + 1 ELSE last END
          AND f.high <= coalesce((SELECT g.high FROM free_range g
                                  WHERE g.subnet = the_subnet AND g.high > to_high ORDER BY g.high LIMIT 1), last);
    END IF;
    WITH expected AS MATERIALIZED (
        SELECT e.low, e.high FROM expected_free_ranges(the_subnet, first, last) e
    ), gone AS (
        DELETE FROM free_range f
        WHERE f.subnet = the_subnet AND (from_low IS NULL OR f.high BETWEEN first AND last)
          AND NOT EXISTS (SELECT FROM expected e WHERE e.high = f.high)
        RETURNING 1
    ), put AS (
        INSERT INTO free_range (subnet, low, high)
        SELECT the_subnet, e.low, e.high FROM expected e
        WHERE NOT EXISTS (SELECT FROM free_range f
                          WHERE f.subnet = the_subnet AND f.high = e.high AND f.low = e.low)
        ON CONFLICT (subnet, high) DO UPDATE SET low = excluded.low
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM gone) + (SELECT count(*) FROM put) INTO written;
    RETURN written;
END $$;

CREATE FUNCTION ipv6_number(address inet) RETURNS numeric
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT sum(('x' || encode(substr(packed, from_byte, 4), 'hex'))::bit(32)::bigint::numeric * weight)
    FROM (SELECT substr(inet_send(address), 5) AS packed) p,
         (VALUES (1, 79228162514264337593543950336), (5, 18446744073709551616), (9, 4294967296), (13, 1))
             AS part(from_byte, weight)
    WHERE from_byte <= length(packed)
$$;

-- How many addresses lie between two, both included. The difference of two IPv6 addresses is no bigint.
CREATE FUNCTION span_size(low inet, high inet) RETURNS numeric
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE WHEN family(low) = 4 THEN (high - low + 1)::numeric
                ELSE ipv6_number(high) - ipv6_number(low) + 1 END
$$;

-- The digest of a subnet's desired host maps, by the byte encoding of clusterd/protocol/digest.py.
CREATE FUNCTION host_map_digest(the_subnet bigint) RETURNS bigint
LANGUAGE sql STABLE AS $$
    SELECT coalesce(bit_xor(('x' || encode(substr(sha256(
        set_byte('\x00'::bytea, 0, family(address))
        || substr(inet_send(address), 5)
        || set_byte('\x00'::bytea, 0, CASE kind WHEN 'mac' THEN 1 WHEN 'client-id' THEN 2 ELSE 3 END)
        || int2send(length(identifier)::smallint) || identifier
        || convert_to(coalesce(hostname, ''), 'UTF8')
    ), 1, 8), 'hex'))::bit(64)::bigint), 0)
    FROM host_map WHERE subnet = the_subnet AND NOT removed
$$;
