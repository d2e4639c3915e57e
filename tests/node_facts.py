"""One fact of each type of the node domain, as they were recorded."""

from schemas.node import HashesMapped, Ref, RefsDropped, RefsKept, SnapshotTaken, TreeEntry, TreePart, TreeRecorded

CONTENT = "d74981efa70a0c880b8d8c1985d075dbcbf679b99a5f9914e5aaf96b831a9e24"
TREE = "b7a7e8a7c0a6d5c1a5a2c6f0c4f4b1b0f1d4b1d5e7a9c3e2d1f0a9b8c7d6e5f4"
EMPTY = "5cef63db74233aa07b47fb2c48ebd6a14b7d8235f3b5adc0e6360674673f06b7"
MOMENT_NS = 1_700_000_000_000_000_000

SAMPLES = (
    TreeRecorded(
        tree=TreePart(
            hash=TREE,
            entry_count=4,
            first=1,
            entries=(
                TreeEntry(
                    name=b"a.txt",
                    kind="file",
                    target=CONTENT,
                    mode=0o644,
                    mtime_ns=MOMENT_NS,
                    size=11,
                    tags=("alpha", "beta"),
                ),
                TreeEntry(name=b"link", kind="symlink", target=CONTENT, mode=134218239, mtime_ns=-1, link=b"a.txt"),
                TreeEntry(name=b"not utf-8 \xff", kind="tree", target=EMPTY, mode=2147484141, size=4096),
            ),
        ),
        hash_v2="0f" * 32,
    ),
    SnapshotTaken(path=b"/home/ada/photos", taken_at_ns=MOMENT_NS, target_hash=TREE),
    RefsKept(source="snapshot.tree-entries", refs=(Ref(ref_key=CONTENT, cid=CONTENT),)),
    RefsDropped(source="snapshot.tree-entries", ref_keys=(CONTENT,)),
    HashesMapped(
        blake3=CONTENT, digests={"sha256": "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"}
    ),
)
