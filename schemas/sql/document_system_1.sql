CREATE TABLE messages (
    id           INTEGER PRIMARY KEY, -- in the order of publishing, without gaps, never given twice
    topic        TEXT NOT NULL,
    payload      NOT NULL,            -- TEXT if its type is textual and it is UTF-8, else BLOB: always the exact bytes
    content_type TEXT NOT NULL,
    producer     TEXT,
    dedupe_key   TEXT,
    created_at   TEXT NOT NULL
);

CREATE INDEX messages_topic ON messages (topic, id);

CREATE INDEX messages_dedupe ON messages (topic, dedupe_key) WHERE dedupe_key IS NOT NULL;

CREATE TABLE retained_messages (
    topic        TEXT PRIMARY KEY NOT NULL, -- each with the last message to be retained
    id           INTEGER NOT NULL,
    payload      NOT NULL,
    content_type TEXT NOT NULL,
    producer     TEXT,
    created_at   TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE webhook_inbox (
    id              INTEGER PRIMARY KEY, -- in the order of arrival, never given twice
    endpoint        TEXT NOT NULL,
    received_at     TEXT NOT NULL,
    method          TEXT NOT NULL,
    query_string    TEXT NOT NULL,       -- without tokens
    headers_json    TEXT NOT NULL,       -- {"name": ["value", ...]}, without credentials
    content_type    TEXT,
    payload         NOT NULL,            -- TEXT or BLOB, as in messages
    signature_valid INTEGER,             -- 1, 0, or NULL if nobody checked
    delivery_id     TEXT                 -- by which the sender knows it
);

CREATE INDEX webhook_inbox_endpoint ON webhook_inbox (endpoint, id);

CREATE INDEX webhook_inbox_delivery ON webhook_inbox (endpoint, delivery_id) WHERE delivery_id IS NOT NULL;

CREATE TABLE fencing_tokens (
    resource   TEXT PRIMARY KEY NOT NULL,
    owner      TEXT NOT NULL,    -- of the newest lease, over or not
    token_hash TEXT NOT NULL,    -- SHA-256 of the secret that proves it
    fence      INTEGER NOT NULL, -- of the newest lease; each is greater than all before
    expires_at TEXT NOT NULL,    -- the lease is over from then on; when it was released, if it was
    updated_at TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE leases (
    resource    TEXT NOT NULL, -- every lease that was granted, up to 1,000 of a resource
    fence       INTEGER NOT NULL,
    owner       TEXT NOT NULL,
    principal   TEXT NOT NULL,
    acquired_at TEXT NOT NULL,
    expires_at  TEXT NOT NULL,
    released_at TEXT,          -- NULL if it is held, or ran out
    PRIMARY KEY (resource, fence)
) WITHOUT ROWID;
