"""The page about the log, made from the code and the recorded samples: `python -m forge.log_docs tests/samples`."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from events.record import COMPRESS_FROM_BYTES, CONTENT_TYPE, PART_BYTES_MAX
from events.streams import DUPLICATE_WINDOW_S, STREAMS
from schemas import control, document_domain, node, vector
from schemas.facts import Fact
from schemas.ids import PartitionId, escape

FACTS: Mapping[str, Mapping[str, type[Fact]]] = {
    "control": control.FACTS,
    "doc": document_domain.FACTS,
    "node": node.FACTS,
    "vector": vector.FACTS,
}
"""The facts of each domain."""

HEADERS = {
    "Nats-Msg-Id": "ULID of the record, the same for every retry; parts of a batch add `.1`, `.2` and so on; what a "
    "restore puts back adds `.1.` and a ULID more",
    "Nats-Expected-Last-Subject-Sequence": "stream sequence of the partition's previous record, 0 for the first",
    "Forge-Position": "`epoch.index`: where the partition stands with this record",
    "Forge-Previous": "hash of the record before it; see the hash chain",
    "Forge-Node": "id of the node that wrote it",
    "Content-Type": f"`{CONTENT_TYPE}`",
    "Content-Encoding": f"`zstd`, if the payload is compressed (from {COMPRESS_FROM_BYTES} bytes on)",
    "Nats-Batch-Id": "only in a batch: ULID of the record",
    "Nats-Batch-Sequence": "only in a batch: number of the part, from 1",
    "Nats-Batch-Commit": "only in the last part of a batch: `1`. A batch without it is void",
}
"""Every header that a record can have, and what it means."""

ATTRIBUTES = {
    "id": "`<ULID of the record>/<number in the record>`",
    "source": "`/forge/node/<node id>`",
    "type": "`forge.<domain>.<noun>.<past-tense verb>`; ends in `.v2` and so on if its meaning changes",
    "subject": "what the fact is about, within its partition",
    "time": "the writer's clock, in UTC with microseconds; it never goes back within a partition",
    "principal": "who asked for it",
    "commandid": "only on the first event of a command that had an id: that id",
    "commandhash": "with `commandid`: fingerprint of the command",
    "commandanswer": "with `commandid`: the answer as JSON text, so that a retry gets the same one",
    "data": "the fact; bytes are base64",
}
"""Every attribute of an event beside `specversion`."""

ESCAPED_EXAMPLES = ("0", "notes.v2", "Große Notizen", "photos/2026")


def log_page(samples: Path) -> str:
    """Return `docs/log.md`; `samples` holds `<type>.json` for every fact. Raise `FileNotFoundError` without one."""
    parts = [_INTRODUCTION, _streams(), _subjects(), _record(), _events()]
    for domain, facts in FACTS.items():
        parts.append(f"### Domain `{domain}`\n")
        parts += [_fact(fact, samples) for fact in facts.values()]
    return "\n".join(parts)


_INTRODUCTION = """\
# The log

Written by `make docs` from the code and from the recorded samples in `tests/samples`, which every version of Forge
has to read. Every change is a record here before anybody can see it; all databases are made from these records.
Only Forge writes to the log: an event is a fact after a node has decided it. Read it with `forge log show`, with the
`nats` command line, or with any CloudEvents library.
"""


def _streams() -> str:
    rows = [f"| `{s.name}` | `{s.subject}` | {s.holds} |" for s in STREAMS]
    settings = (
        "All streams are stored in files and refuse new records when full instead of dropping old ones. They have no "
        "age limit, deny the deletion of messages, and allow direct reads and atomic batches. Duplicates are "
        f"recognised for {DUPLICATE_WINDOW_S} s, but nothing depends on that.\n"
    )
    return "\n".join(["## Streams\n", "| Stream | Subjects | Holds |", "|---|---|---|", *rows, "", settings])


def _subjects() -> str:
    partition = PartitionId("doc", "notes.v2")
    rows = [f"| `{text}` | `{escape(text)}` |" for text in ESCAPED_EXAMPLES]
    return "\n".join(
        [
            "## Subjects\n",
            "A subject is a partition: one history in one order, with one writer at a time. For the document "
            "`notes.v2`:\n",
            "| Subject | What goes there |",
            "|---|---|",
            f"| `{partition.subject}` | the records |",
            f"| `{partition.live_subject}` | news that there are more; losing it costs a moment, never data |",
            f"| `{partition.command_subject}` | commands to the node that owns the partition |",
            "",
            "Ids are escaped, and the same form names files: `a-z`, `0-9` and `-` stand for themselves, every other "
            "byte of the UTF-8 form is `_` and two hex digits.\n",
            "| Id | Escaped |",
            "|---|---|",
            *rows,
            "",
        ]
    )


def _record() -> str:
    headers = [f"| `{name}` | {meaning} |" for name, meaning in HEADERS.items()]
    text = f"""\
## Records

A record is one commit: one JetStream message, whose payload is a JSON array of CloudEvents. A payload of more than
{PART_BYTES_MAX >> 20} MiB is cut into the messages of one atomic batch, and is one record still.

| Header | Value |
|---|---|
{chr(10).join(headers)}

### The hash chain

Each record names the one before it by 16 bytes of BLAKE3, in hex, over these values, each but the last followed by a
zero byte: subject, record id, position, previous hash, node, content type, content encoding, payload as stored. The
first record names BLAKE3 of `forge.genesis <subject>`. Sequences of the stream are not part of it: they change when a
log is restored, history does not.
"""
    return text


def _events() -> str:
    rows = [f"| `{name}` | {meaning} |" for name, meaning in ATTRIBUTES.items()]
    return "\n".join(
        [
            "## Events\n",
            "What is stored is for ever: fields are added with a default, never renamed; readers ignore fields that "
            "they do not know. A type that they do not know stops them: it was written by a newer Forge.\n",
            "| Attribute | Value |",
            "|---|---|",
            *rows,
            "",
        ]
    )


def _fact(fact: type[Fact], samples: Path) -> str:
    sample = json.dumps(json.loads((samples / f"{fact.TYPE}.json").read_text()), indent=2, ensure_ascii=False)
    return f"#### `{fact.TYPE}`\n\n{fact.__doc__}\n\n```json\n{sample}\n```\n"


if __name__ == "__main__":
    print(log_page(Path(sys.argv[1])), end="")
