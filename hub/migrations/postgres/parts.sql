-- What stands in the schema whichever parts it has: their versions, and which hub may write to them.

CREATE SCHEMA IF NOT EXISTS muster;

CREATE TABLE muster.parts (
    part    TEXT PRIMARY KEY,
    -- How many of its migrations have been run.
    version BIGINT NOT NULL,
    -- Raised by each hub that takes the part; who finds another number than its own must not write.
    epoch   BIGINT NOT NULL,
    -- Who took it last, where, and when.
    hub     TEXT NOT NULL,
    host    TEXT NOT NULL,
    pid     BIGINT NOT NULL,
    since   BIGINT NOT NULL
);

-- The last commit of each of the requests that write at a time: a commit whose answer was lost is looked up here. A
-- transaction's own number would not do: after a crash the server may give it to another.
CREATE TABLE muster.commits (
    part   TEXT NOT NULL,
    slot   BIGINT NOT NULL,
    ticket TEXT NOT NULL,
    PRIMARY KEY (part, slot)
) WITH (fillfactor = 40);
