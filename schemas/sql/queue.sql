-- vector/queue.db: one job per (file, kind), for ever; the history of the work is the log.
CREATE TABLE job (
    id              INTEGER PRIMARY KEY,
    file_hash       TEXT NOT NULL,
    kind            TEXT NOT NULL,
    status          TEXT NOT NULL CHECK (status IN ('pending', 'processing', 'awaiting_payload', 'done', 'error')),
    payload         TEXT NOT NULL,             -- CID of the bytes
    size_bytes      INTEGER NOT NULL,
    attempts        INTEGER NOT NULL DEFAULT 0, -- that failed
    worker_id       TEXT,
    last_error      TEXT,
    next_attempt_at TEXT NOT NULL,
    lease_until     TEXT,
    created_at      TEXT NOT NULL,
    updated_at      TEXT NOT NULL,
    UNIQUE (file_hash, kind)
);
CREATE INDEX job_pending ON job (id) WHERE status = 'pending';
CREATE INDEX job_processing ON job (lease_until) WHERE status = 'processing';
CREATE INDEX job_error ON job (id) WHERE status = 'error';
CREATE INDEX job_awaiting_payload ON job (id) WHERE status = 'awaiting_payload';
-- Counting rows would cost every upload a scan.
CREATE TABLE job_count (
    status TEXT PRIMARY KEY,
    jobs   INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO job_count VALUES ('pending', 0), ('processing', 0), ('awaiting_payload', 0), ('done', 0), ('error', 0);
-- The one dimension of each model, learned from its first answer.
CREATE TABLE model (
    kind      TEXT NOT NULL,
    model     TEXT NOT NULL,
    dimension INTEGER NOT NULL,
    PRIMARY KEY (kind, model)
) WITHOUT ROWID;
