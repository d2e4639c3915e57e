-- What every projection has beside its own tables.
CREATE TABLE _forge_position (
    one       INTEGER PRIMARY KEY CHECK (one = 1),
    partition TEXT NOT NULL,
    epoch     INTEGER NOT NULL,
    idx       INTEGER NOT NULL,
    hash      TEXT NOT NULL,    -- of the record at this position; the next record must name it
    sequence  INTEGER NOT NULL, -- hint: where the server keeps that record
    time      TEXT NOT NULL,    -- of the newest folded event; the clock of this partition never goes back
    version   TEXT NOT NULL     -- of tables and fold; another version in the code means: rebuild
);
-- Answers to commands that carried an id, so that a retry gets the same one.
CREATE TABLE _forge_command (
    command_id  TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL, -- of the command
    position    TEXT NOT NULL,
    answer      TEXT NOT NULL,
    at          TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX _forge_command_at ON _forge_command (at);
