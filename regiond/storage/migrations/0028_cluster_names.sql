-- works for regionds that know 0002
-- What an admin says of a cluster and its interfaces: another name, and that it is not to serve a network. And the audit
-- by time.

-- On a plain link a cluster says its own name. Where an admin gave it another one that is still how it is recognised.
-- An older regiond does not look here: rename such clusters when all regionds know this. NULL: it says `name`, or its
-- certificate says who it is.
ALTER TABLE cluster ADD COLUMN said_name text UNIQUE;

-- `declined`: an admin said that it does not serve the network; no report changes that.
ALTER TABLE cluster_interface
    DROP CONSTRAINT cluster_interface_serving_check,
    ADD CONSTRAINT cluster_interface_serving_check
        CHECK (serving IN ('serving', 'shared-subnet', 'unserved', 'declined', 'conflict'));

-- What happened when: the audit is written in the order of time, so that a block range index is small and costs nothing.
CREATE INDEX audit_at ON audit USING brin (at);
