-- snapshot.db: what folders of this machine looked like. Names that are not UTF-8 are blobs.
CREATE TABLE trees (
    hash          TEXT PRIMARY KEY, -- tree hash v1
    hash_algo     TEXT NOT NULL,
    created_at_ns INTEGER NOT NULL,
    entry_count   INTEGER NOT NULL,
    hash_v2       TEXT              -- tree hash v2; NULL while entries are missing
) WITHOUT ROWID;
CREATE TABLE tree_entries (
    tree_hash   TEXT NOT NULL REFERENCES trees (hash) ON DELETE CASCADE,
    name        NOT NULL,
    kind        TEXT NOT NULL,    -- file, symlink, tree or special
    target_hash TEXT NOT NULL,
    mode        INTEGER NOT NULL, -- bits of Go's FileMode
    mod_time_ns INTEGER NOT NULL,
    size        INTEGER NOT NULL,
    link_target NOT NULL,
    PRIMARY KEY (tree_hash, name)
) WITHOUT ROWID;
CREATE TABLE tags (
    id   INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE
);
CREATE TABLE tree_entry_tags (
    tree_hash TEXT NOT NULL,
    name      NOT NULL,
    tag_id    INTEGER NOT NULL REFERENCES tags (id) ON DELETE CASCADE,
    PRIMARY KEY (tree_hash, name, tag_id),
    FOREIGN KEY (tree_hash, name) REFERENCES tree_entries (tree_hash, name) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX tree_entry_tags_tag ON tree_entry_tags (tag_id, tree_hash);
CREATE INDEX tree_entry_tags_tree ON tree_entry_tags (tree_hash, tag_id);
CREATE TABLE pointers (
    id               INTEGER PRIMARY KEY,
    path             NOT NULL,
    snapshot_time_ns INTEGER NOT NULL,
    target_kind      TEXT NOT NULL,
    target_hash      TEXT NOT NULL,
    hash_algo        TEXT NOT NULL
);
CREATE INDEX pointers_path ON pointers (path, snapshot_time_ns DESC);
CREATE INDEX pointers_target ON pointers (target_hash);
CREATE TABLE hash_mappings (
    blake3 TEXT NOT NULL,
    algo   TEXT NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (blake3, algo)
) WITHOUT ROWID;
CREATE INDEX hash_mappings_digest ON hash_mappings (algo, digest);
