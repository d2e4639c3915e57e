-- refs.db: which content this machine keeps, and for whom.
CREATE TABLE blob_refs (
    source        TEXT NOT NULL,
    ref_key       TEXT NOT NULL,
    cid           TEXT NOT NULL,
    created_at_ns INTEGER NOT NULL,
    updated_at_ns INTEGER NOT NULL,
    PRIMARY KEY (source, ref_key)
) WITHOUT ROWID;
CREATE INDEX blob_refs_cid_idx ON blob_refs (cid);
CREATE INDEX blob_refs_source_idx ON blob_refs (source);
