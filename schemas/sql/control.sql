-- control.db: which documents and tokens there are, and who changed that.
CREATE TABLE document (
    db_id       TEXT PRIMARY KEY,
    name        TEXT NOT NULL, -- for people
    owner       TEXT NOT NULL, -- principal
    created_at  TEXT NOT NULL,
    changed_at  TEXT NOT NULL,
    archived_at TEXT,
    deleted_at  TEXT
) WITHOUT ROWID;
CREATE INDEX document_owner ON document (owner);
CREATE TABLE message_retention (
    db_id     TEXT PRIMARY KEY REFERENCES document (db_id), -- with at least one bound
    max_age_s INTEGER,
    max_count INTEGER,
    max_bytes INTEGER
) WITHOUT ROWID;
CREATE TABLE token (
    id           TEXT PRIMARY KEY,
    number       INTEGER NOT NULL UNIQUE, -- in the order of their minting
    hash         TEXT NOT NULL UNIQUE,    -- SHA-256 of the secret, hex; the secret is nowhere
    prefix       TEXT NOT NULL,
    label        TEXT NOT NULL,
    is_admin     INTEGER NOT NULL,
    created_by   TEXT NOT NULL,
    created_at   TEXT NOT NULL,
    expires_at   TEXT,
    last_used_at TEXT, -- to the minute
    revoked_at   TEXT,
    url          INTEGER NOT NULL DEFAULT 0 -- may be given in a URL
) WITHOUT ROWID;
CREATE TABLE token_scope (
    token_id        TEXT NOT NULL REFERENCES token (id),
    position        INTEGER NOT NULL,
    db_id           TEXT NOT NULL, -- or a pattern
    action          TEXT NOT NULL,
    resource_prefix TEXT NOT NULL,
    PRIMARY KEY (token_id, position)
) WITHOUT ROWID;
CREATE TABLE webhook_endpoint (
    db_id    TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    provider TEXT NOT NULL,
    policy   TEXT NOT NULL, -- record or reject
    dedupe   INTEGER NOT NULL,
    secrets  TEXT NOT NULL, -- JSON array of age files in base64, encrypted to the key of the node
    set_at   TEXT NOT NULL,
    set_by   TEXT NOT NULL,
    PRIMARY KEY (db_id, endpoint)
) WITHOUT ROWID;
CREATE TABLE replica (
    db_id         TEXT NOT NULL,
    replica_id    TEXT NOT NULL,
    copy_id       TEXT NOT NULL,
    kind          TEXT NOT NULL,
    position      TEXT NOT NULL,    -- epoch.index: all up to there is on its disk
    bootstrapping INTEGER NOT NULL,
    reported_by   TEXT NOT NULL,
    first_seen    TEXT NOT NULL,
    last_seen     TEXT NOT NULL,    -- to the heartbeat
    decided       TEXT NOT NULL DEFAULT '', -- evicted or recalled; both end with another copy
    reason        TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (db_id, replica_id)
) WITHOUT ROWID;
-- One line per fact but those about use and reports: who did what to what.
CREATE TABLE writer (
    epoch    INTEGER PRIMARY KEY, -- from this one on
    node     TEXT NOT NULL,
    lease_id TEXT NOT NULL,
    place    TEXT NOT NULL, -- machine and data directory
    taken_at TEXT NOT NULL
);
-- One line per fact but those about use: who did what to what.
CREATE TABLE audit (
    id        INTEGER PRIMARY KEY,
    at        TEXT NOT NULL,
    principal TEXT NOT NULL,
    action    TEXT NOT NULL,
    subject   TEXT NOT NULL,
    detail    TEXT NOT NULL -- JSON
);
