"""What dashboard and alerts ask for is what a real node tells."""

import random
import re
from pathlib import Path

from forge.stack.weed import Weed
from tests.acceptance.asking import until
from tests.acceptance.conftest import StartNode
from tests.faults.killer import fresh_seed
from tests.metrics import named, series
from tests.s3_stores import s3_environ

DEPLOY = Path(__file__).parents[2] / "deploy"
READY = r'^forge_ready\{check="([^"]+)"\} (\S+)$'


async def test_a_node_exports_every_metric_that_the_dashboard_and_the_alerts_name(
    start_node: StartNode, weed: Weed
) -> None:
    """K6.4: by a scrape; and what it says of being ready is what /readyz says."""
    prefix = f"monitored-{random.Random(fresh_seed()).randrange(1 << 30)}"
    node = await start_node(extra=s3_environ(weed, prefix=prefix))
    async with node.http() as http:
        scraped = (await http.get("/metrics")).text

        async def agrees() -> bool:
            """Compare what is told one after the other: in between a check may come to another end."""
            told = dict(re.findall(READY, (await http.get("/metrics")).text, re.MULTILINE))
            checks = (await http.get("/readyz")).json()["checks"]
            return bool(checks) and told == {check["name"]: str(float(check["ok"])) for check in checks}

        await until(agrees, "the metrics say of being ready what /readyz says")

    asked = named((DEPLOY / "grafana/forge.json").read_text() + (DEPLOY / "prometheus/alerts.yml").read_text())
    exported = dict(re.findall(r"^# TYPE (forge_\w+) (\w+)$", scraped, re.MULTILINE))
    assert asked - series(exported) == set()
