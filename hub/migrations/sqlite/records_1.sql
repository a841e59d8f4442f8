-- The first schema of muster.db: identity, credentials, tokens, tasks, audit.
-- Times are milliseconds since the Unix epoch; 0 where it has not happened.

CREATE TABLE hub (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE nodes (
    id          TEXT PRIMARY KEY,
    user        TEXT NOT NULL,
    name        TEXT NOT NULL,
    public_key  BLOB NOT NULL UNIQUE,
    enrolled_at INTEGER NOT NULL,
    epoch       INTEGER NOT NULL,
    last_seen   INTEGER NOT NULL,
    attached_at INTEGER NOT NULL,
    labels      TEXT NOT NULL,
    detail      TEXT NOT NULL,
    UNIQUE (user, name)
) STRICT;

-- The keys of deleted nodes: refused for good.
CREATE TABLE revoked (
    public_key BLOB PRIMARY KEY,
    node       TEXT NOT NULL,
    at         INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE tokens (
    id          TEXT PRIMARY KEY,
    secret_hash BLOB NOT NULL,
    user        TEXT NOT NULL,
    created_at  INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    uses        INTEGER NOT NULL,
    used        INTEGER NOT NULL,
    created_by  TEXT NOT NULL
) STRICT;

-- Which key became which node by which token, so that an enrolment whose answer was lost can be repeated.
CREATE TABLE token_uses (
    token      TEXT NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    public_key BLOB NOT NULL,
    node       TEXT NOT NULL,
    PRIMARY KEY (token, public_key)
) STRICT, WITHOUT ROWID;

CREATE TABLE tasks (
    id            BLOB PRIMARY KEY,
    node          TEXT NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    spec          TEXT NOT NULL,
    state         TEXT NOT NULL,
    outcome       TEXT,
    exit_code     INTEGER,
    signal        INTEGER,
    reason        TEXT,
    duration_ms   INTEGER,
    created_by    TEXT NOT NULL,
    created_at    INTEGER NOT NULL,
    expires_at    INTEGER NOT NULL,
    dispatched_at INTEGER NOT NULL,
    started_at    INTEGER NOT NULL,
    ended_at      INTEGER NOT NULL,
    boot          INTEGER NOT NULL,
    -- Cursors as boot and seq. They are never compared here, so that all 64 bits of a seq are kept as they are.
    read_boot     INTEGER,
    read_seq      INTEGER,
    first_boot    INTEGER,
    first_seq     INTEGER,
    last_boot     INTEGER,
    last_seq      INTEGER
) STRICT;

CREATE INDEX tasks_by_node ON tasks (node, id);
CREATE INDEX tasks_active ON tasks (id) WHERE state <> 'ended';

CREATE TABLE idempotency (
    scope        TEXT NOT NULL,
    key          TEXT NOT NULL,
    request_hash BLOB NOT NULL,
    task         BLOB NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    created_at   INTEGER NOT NULL,
    PRIMARY KEY (scope, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_by_task ON idempotency (task);
CREATE INDEX idempotency_by_age ON idempotency (created_at);

CREATE TABLE audit (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    at        INTEGER NOT NULL,
    principal TEXT NOT NULL,
    action    TEXT NOT NULL,
    resource  TEXT NOT NULL,
    detail    TEXT NOT NULL
) STRICT;
