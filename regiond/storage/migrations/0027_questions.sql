-- works for regionds that know 0002
-- Questions to clusters that are connected to another regiond than the one that wants to know. A row lives for
-- seconds: the regiond that has the cluster's connection takes it, asks, and writes the answer; the one that put it
-- there takes the answer away. What is left over is deleted once it has expired. Unlogged: a question costs no fsync and
-- no wait for a standby, and none is worth more than its answer's deadline. No reference to the cluster, for the lock
-- on its row would be logged.

CREATE UNLOGGED TABLE cluster_question (
    id bigint PRIMARY KEY,
    cluster bigint NOT NULL,
    command text NOT NULL,
    arguments bytea NOT NULL,
    expires_at timestamptz NOT NULL,
    taken boolean NOT NULL DEFAULT false,
    answered boolean NOT NULL DEFAULT false,
    answer bytea,
    error_code text,
    error_text text
);
CREATE INDEX cluster_question_untaken ON cluster_question (cluster) WHERE NOT taken;
