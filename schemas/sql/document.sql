-- What a document has beside the user's tables and the system tables, which come by events.
CREATE TABLE _forge_document (
    one             INTEGER PRIMARY KEY CHECK (one = 1),
    system_version  INTEGER NOT NULL, -- of the system tables
    source          TEXT,             -- a clone: the document that its content came from,
    source_position TEXT,             -- as it was then,
    next_part       INTEGER NOT NULL, -- how many parts of it are here,
    copied          INTEGER NOT NULL, -- and whether that is all
    last_message_id INTEGER NOT NULL, -- the highest ever given, also to messages that are gone
    message_bytes   INTEGER NOT NULL, -- of all payloads in messages
    last_webhook_id INTEGER NOT NULL  -- the highest ever given
);
INSERT INTO _forge_document VALUES (1, 0, NULL, NULL, 0, 0, 0, 0, 0);
