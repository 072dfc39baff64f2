-- The region's certificate authority, the clusters' certificates, and tokens for enrolment.
-- works for regionds that know 0002

-- One for all regionds of this database: the first one makes it. The key is a secret.
CREATE TABLE authority (
    single_row boolean PRIMARY KEY DEFAULT true CHECK (single_row),
    certificate text NOT NULL,
    private_key text NOT NULL,
    created timestamptz NOT NULL DEFAULT now()
);

-- `serial` is hexadecimal. A row outlives its cluster: what was revoked stays revoked.
CREATE TABLE certificate (
    serial text PRIMARY KEY,
    cluster bigint NOT NULL,
    issued timestamptz NOT NULL DEFAULT now(),
    expires timestamptz NOT NULL,
    revoked timestamptz
);
CREATE INDEX certificate_cluster ON certificate (cluster, issued);

-- At most one for each name. The token itself is never stored, see `token`.
CREATE TABLE enrolment (
    name text PRIMARY KEY,
    id bigint NOT NULL UNIQUE,
    salt bytea NOT NULL,
    hash bytea NOT NULL,
    created timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);

-- A forgotten cluster keeps its row, under another name: that it served a subnet once is still of interest there.
-- `instance` is the start of clusterd that registered last, `former_instances` the ones before it; two that take turns
-- are two hosts with one identity, last seen at `turns_seen`.
ALTER TABLE cluster
    ADD COLUMN enrolled timestamptz,
    ADD COLUMN revoked timestamptz,
    ADD COLUMN forgotten timestamptz,
    ADD COLUMN instance text,
    ADD COLUMN former_instances text[] NOT NULL DEFAULT '{}',
    ADD COLUMN turns_seen timestamptz;
