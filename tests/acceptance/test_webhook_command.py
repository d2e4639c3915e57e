"""`forge webhook`, and a provider's whole way: settings, signed deliveries, the inbox."""

import hmac
import json
from hashlib import sha256

from tests.acceptance.conftest import StartNode

DB, SECRET = "hooks", "it is a secret"


async def test_an_endpoint_from_the_command_line(start_node: StartNode) -> None:
    """D.4: secrets come from a file or the environment, never from the command line, and are shown nowhere."""
    node = await start_node()
    assert (await node.cli("db", "create", DB)).code == 0
    secrets = node.home / "secrets"
    secrets.write_text(f"{SECRET}\nold\n\n")
    reading = ("--secrets-from", str(secrets))
    shown = await node.cli("webhook", "set", DB, "gh", "--provider", "github", *reading, "--reject", "--json")
    assert shown.code == 0, shown.err
    view = json.loads(shown.out)
    assert (view["provider"], view["policy"], view["secrets"], view["dedupe"]) == ("github", "reject", 2, False)
    kept = json.loads((await node.cli("webhook", "set", DB, "gh", "--provider", "github", "--dedupe", "--json")).out)
    assert (kept["policy"], kept["secrets"], kept["dedupe"]) == ("record", 2, True)
    listed = await node.cli("webhook", "list", DB)
    assert "github" in listed.out
    assert SECRET not in listed.out + shown.out + node.log.read_text()

    body = b'{"n": 1}'
    signature = f"sha256={hmac.new(SECRET.encode(), body, sha256).hexdigest()}"
    async with node.http() as http:
        headers = {"X-Hub-Signature-256": signature, "X-GitHub-Delivery": "1"}
        statuses = [
            (await http.post(f"/api/v1/db/{DB}/webhooks/gh", content=body, headers=headers)).status_code
            for _ in range(2)
        ]
    assert statuses == [201, 200]
    read = await node.cli("db", "sql", DB, "SELECT signature_valid, delivery_id FROM webhook_inbox", "--json")
    assert json.loads(read.out)["rows"] == [[1, "1"]]
    assert (await node.cli("webhook", "set", DB, "gh", "--provider", "nobody")).code == 2
    (node.home / "binary").write_bytes(b"\xff\xfe")
    for file in ("missing", "binary"):
        unread = await node.cli("webhook", "set", DB, "gh", "--secrets-from", str(node.home / file))
        assert (unread.code, "reading secrets from" in unread.err) == (2, True), unread.err
    assert (await node.cli("webhook", "remove", DB, "gh")).code == 0
    assert (await node.cli("webhook", "remove", DB, "gh")).code == 3
