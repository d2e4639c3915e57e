"""`forge pub`, `forge sub` and `forge db retention`, as somebody types them."""

import json
from pathlib import Path

from tests.acceptance.conftest import StartNode


async def test_what_is_published_by_the_command_line_is_printed_by_it(start_node: StartNode, tmp_path: Path) -> None:
    """P3.2, P3.11: every form, text and JSON, refusals with their exit codes."""
    node = await start_node()
    assert (await node.cli("db", "create", "home")).code == 0
    raw = tmp_path / "raw"
    raw.write_bytes(b"\x00\xff")
    for arguments in (
        ("a/b", "hi"),
        ("a/c", "--value", '{"x": [1]}', "--retain", "--producer", "ada"),
        ("b", "--file", str(raw)),
        ("b", "--value", "null", "--key", "k"),
    ):
        assert (await node.cli("pub", "home", *arguments)).code == 0, arguments
    again = await node.cli("pub", "home", "b", "--value", "null", "--key", "k", "--json")
    assert (json.loads(again.out)["id"], json.loads(again.out)["duplicate"]) == (4, True)

    printed = await node.cli("sub", "home", "--since", "0", "--count", "4")
    assert printed.out.splitlines() == [
        "1 a/b hi",
        '2 a/c {"x": [1]}',
        "3 b (2 bytes of application/octet-stream)",
        "4 b null",
    ]
    printed = await node.cli("sub", "home", "a/+", "b", "--tail", "3", "--count", "3", "--json")
    lines = [json.loads(line) for line in printed.out.splitlines()]
    assert [line["id"] for line in lines] == [2, 3, 4]
    assert lines[0]["payload"] == {"x": [1]}
    assert lines[1]["payload_base64"] == "AP8="
    assert [line["producer"] for line in lines] == ["ada", None, None]

    assert json.loads((await node.cli("db", "retention", "home", "--count", "7", "--json")).out)["max_count"] == 7
    assert (await node.cli("db", "retention", "home")).out == "keeps at most 7 messages\n"
    for refused, code in (
        (("pub", "home", "a/+", "x"), 2),
        (("pub", "home", "a"), 2),
        (("pub", "home", "a", "--value", "NaN"), 2),
        (("pub", "home", "a", "--value", "1e999"), 2),
        (("pub", "home", "a", "--value", r'"\ud800"'), 2),
        (("pub", "home", "a", "\udcff"), 2),
        (("sub", "home", "\udcff"), 2),
        (("pub", "home", "a", "x", "--value", "1"), 2),
        (("pub", "other", "a", "x"), 3),
        (("pub", "home", "a", "x", "--fence", "jobs=1"), 5),
        (("sub", "home", "--since", "1", "--tail", "1"), 2),
        (("sub", "home", "a#"), 2),
        (("sub", "other"), 3),
        (("db", "retention", "home", "--count", "1", "--none"), 2),
    ):
        assert (await node.cli(*refused)).code == code, refused
