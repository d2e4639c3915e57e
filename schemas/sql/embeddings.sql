-- vector/embeddings.db: the vectors, one per (kind, file).
CREATE TABLE embedding (
    kind       TEXT NOT NULL,
    file_hash  TEXT NOT NULL,
    model      TEXT NOT NULL,
    dimension  INTEGER NOT NULL,
    vector     BLOB NOT NULL, -- little-endian float32
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    PRIMARY KEY (kind, file_hash)
);
-- The older shape: a table per kind, vectors as JSON text. Decoded in plain SQL, so that the SQLite of
-- other programs can read it, from 3.38 on with its mathematical functions.
CREATE VIEW embedding_json AS
SELECT kind, file_hash AS hash, created_at, updated_at, (
    WITH RECURSIVE
        at (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM at WHERE n + 1 < dimension),
        bits (n, b) AS (
            SELECT n, (instr('0123456789ABCDEF', substr(h, 7, 1)) - 1) * 268435456
                    + (instr('0123456789ABCDEF', substr(h, 8, 1)) - 1) * 16777216
                    + (instr('0123456789ABCDEF', substr(h, 5, 1)) - 1) * 1048576
                    + (instr('0123456789ABCDEF', substr(h, 6, 1)) - 1) * 65536
                    + (instr('0123456789ABCDEF', substr(h, 3, 1)) - 1) * 4096
                    + (instr('0123456789ABCDEF', substr(h, 4, 1)) - 1) * 256
                    + (instr('0123456789ABCDEF', substr(h, 1, 1)) - 1) * 16
                    + (instr('0123456789ABCDEF', substr(h, 2, 1)) - 1)
            FROM (SELECT n, hex(substr(vector, 4 * n + 1, 4)) AS h FROM at)
        )
    SELECT json_group_array(number) FROM (
        SELECT CASE WHEN b & 2147483648 THEN -1.0 ELSE 1.0 END
            * CASE WHEN (b >> 23) & 255 THEN (8388608 + (b & 8388607)) * pow(2.0, ((b >> 23) & 255) - 150)
                   ELSE (b & 8388607) * pow(2.0, -149) END AS number
        FROM bits ORDER BY n -- not inside json_group_array: Debian 12 has SQLite 3.40, which could not open the file then
    )
) AS vector
FROM embedding;
CREATE VIEW image_embeddings AS SELECT hash, vector, created_at, updated_at FROM embedding_json WHERE kind = 'image';
CREATE VIEW text_embeddings AS SELECT hash, vector, created_at, updated_at FROM embedding_json WHERE kind = 'text';
