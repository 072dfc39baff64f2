-- works for regionds that know 0014
-- Imports: files of reservations, checked line by line and applied in one transaction.

-- `content` is the file, until the import is over. `worker` is the regiond that works on it, as long as it says so by
-- `heartbeat`; another one takes over after that, and begins anew: nothing was changed before the state is 'done'.
CREATE TABLE import (
    id bigint PRIMARY KEY,
    account bigint NOT NULL REFERENCES account ON DELETE CASCADE,
    request_id text NOT NULL,
    format text NOT NULL,
    dry_run boolean NOT NULL,
    ignored text[] NOT NULL DEFAULT '{}',
    content text,
    state text NOT NULL DEFAULT 'waiting',
    attempts integer NOT NULL DEFAULT 0,
    checked integer NOT NULL DEFAULT 0,
    applied integer NOT NULL DEFAULT 0,
    created integer NOT NULL DEFAULT 0,
    present integer NOT NULL DEFAULT 0,
    skipped integer NOT NULL DEFAULT 0,
    mistakes jsonb NOT NULL DEFAULT '[]',
    mistake_count integer NOT NULL DEFAULT 0,
    reason text,
    worker uuid,
    heartbeat timestamptz,
    began timestamptz NOT NULL DEFAULT now(),
    finished timestamptz
);
CREATE INDEX import_unfinished ON import (began) WHERE finished IS NULL;
CREATE INDEX import_account ON import (account, id);

-- A user's list is of all kinds: without them in the index, the first page of somebody with few reservations reads all.
DROP INDEX reservation_owner;
CREATE INDEX reservation_owner ON reservation (owner, id);
