-- works for regionds that know 0002
-- VRFs as something that admins make, what a cluster's configuration says of its interfaces, and the history of those.

ALTER TABLE vrf
    ADD COLUMN comment text,
    ADD COLUMN created timestamptz NOT NULL DEFAULT now();

-- `vrf` is the name that the cluster's configuration gives the NIC, NULL for the cluster's own VRF; `conflict` says why
-- an interface is on no subnet. `auto` is false where an admin has to say that the cluster serves a new network.
ALTER TABLE cluster_interface
    ADD COLUMN vrf text,
    ADD COLUMN relayed boolean NOT NULL DEFAULT false,
    ADD COLUMN auto boolean NOT NULL DEFAULT true,
    ADD COLUMN conflict text,
    DROP CONSTRAINT cluster_interface_serving_check,
    ADD CONSTRAINT cluster_interface_serving_check
        CHECK (serving IN ('serving', 'shared-subnet', 'unserved', 'conflict'));

ALTER TABLE cluster ADD COLUMN topology_at timestamptz;
COMMENT ON COLUMN cluster.topology_at IS 'when the last whole picture of its interfaces came';

-- What happened to cluster interfaces. The interface may be gone. Pruned: see regiond/storage/topology_history.py.
CREATE TABLE interface_change (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    cluster bigint NOT NULL REFERENCES cluster ON DELETE CASCADE,
    interface bigint NOT NULL,
    happened text NOT NULL,
    nic text NOT NULL,
    cidr cidr NOT NULL,
    vrf text NOT NULL,
    serving text NOT NULL,
    before jsonb NOT NULL,
    after jsonb NOT NULL
);
CREATE INDEX interface_change_cluster ON interface_change (cluster, id);
CREATE INDEX interface_change_at ON interface_change (at);
