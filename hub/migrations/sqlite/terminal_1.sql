-- The first schema of terminal.db: frames, many to a row.
-- Times are milliseconds since the Unix epoch.

-- One run of a node's agent. Outlives its chunks: the head must not be forgotten.
CREATE TABLE boots (
    id       INTEGER PRIMARY KEY,
    node     TEXT NOT NULL,
    boot     INTEGER NOT NULL,
    boot_id  BLOB NOT NULL,
    last_seq INTEGER NOT NULL,
    closed   INTEGER NOT NULL,
    -- What its chunks add up to, so that opening a large log does not read all of it.
    weight   INTEGER NOT NULL,
    frames   INTEGER NOT NULL,
    UNIQUE (node, boot)
) STRICT;

-- Consecutive frames of one boot. The id grows with each commit: the smallest is the oldest of all nodes.
CREATE TABLE chunks (
    id        INTEGER PRIMARY KEY,
    boot_ref  INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    -- The last number that its last frame stands for; the greatest there is when that is the rest of the boot.
    last_seq  INTEGER NOT NULL,
    -- By the node's clock.
    first_at  INTEGER NOT NULL,
    last_at   INTEGER NOT NULL,
    -- By the hub's clock: a node cannot make its frames old or keep them young.
    stored_at INTEGER NOT NULL,
    weight    INTEGER NOT NULL,
    frames    INTEGER NOT NULL,
    -- Bytes of output alone.
    output    INTEGER NOT NULL,
    data      BLOB NOT NULL
) STRICT;

CREATE INDEX chunks_by_boot ON chunks (boot_ref, first_seq);
