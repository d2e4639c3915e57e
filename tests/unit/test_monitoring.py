"""Dashboard and alerts: they parse, name metrics that exist, fire where they should, and say what to do then."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.metrics import declared, named, series

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
ALERTS, CASES = DEPLOY / "prometheus" / "alerts.yml", DEPLOY / "prometheus" / "alerts.test.yml"
DASHBOARD = DEPLOY / "grafana" / "forge.json"
VARIABLES = {"$node": "a", "$__rate_interval": "5m"}
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="needs promtool (Debian's prometheus)")


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def queries() -> Iterator[str]:
    for panel in panels():
        for target in panel.get("targets", []):
            query = target["expr"]
            for variable, value in VARIABLES.items():
                query = query.replace(variable, value)
            yield query


def promtool(*arguments: str) -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_every_alert_fires_where_it_should_and_is_silent_where_it_should_be() -> None:
    """K6.4: by promtool, with the text that people will read."""
    promtool("check", "rules", str(ALERTS))
    promtool("test", "rules", str(CASES))


@needs_promtool
def test_the_queries_of_the_dashboard_and_the_configuration_parse(tmp_path: Path) -> None:
    """K6.4."""
    promtool("check", "config", "--syntax-only", str(DEPLOY / "prometheus" / "prometheus.yml"))
    as_rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries())]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": as_rules}]}))
    promtool("check", "rules", "--lint=none", str(tmp_path / "rules.yml"))


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    """K6.4: an alert that nobody has seen firing is a hope."""
    fires, silent = set[str](), set[str]()
    for case in yaml.safe_load(CASES.read_text())["tests"]:
        for expected in case["alert_rule_test"]:
            (fires if expected["exp_alerts"] else silent).add(expected["alertname"])

    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    assert fires == silent == set(names)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_every_alert_leads_to_a_page_that_says_what_to_do(rule: dict[str, Any]) -> None:
    """K6.5: each alert links a section that exists."""
    assert rule["labels"]["severity"] in ("page", "warn")
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor in [re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "runbooks").glob("*.md")), ids=lambda page: str(page.name))
def test_every_alert_that_a_runbook_names_exists(page: Path) -> None:
    """K6.5: who was woken by an alert looks for its name."""
    unknown = set(re.findall(r"`(Forge[A-Z]\w+)`", page.read_text())) - {rule["alert"] for rule in rules()}
    assert not unknown


def test_only_metrics_that_exist_are_named() -> None:
    """K6.4: a query of a metric that nobody exports is silent for ever."""
    texts = [rule["expr"] for rule in rules()] + list(queries()) + [DASHBOARD.read_text()]
    unknown = named("\n".join(texts)) - series(declared())
    assert not unknown


def test_the_dashboard_has_a_title_and_a_place_for_each_panel() -> None:
    """K6.4: what was edited by hand still opens."""
    assert len({panel["id"] for panel in panels()}) == len(panels())
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        assert panel["title"]
        assert panel["type"] == "row" or panel["targets"]
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_services_for_monitoring_mount_what_exists_and_listen_on_this_machine_alone() -> None:
    services = yaml.safe_load((DEPLOY / "monitoring.yaml").read_text())["services"]

    assert set(services) == {"prometheus", "grafana"}
    for service in services.values():
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        sources = [volume.partition(":")[0] for volume in service["volumes"]]
        assert all((ROOT / source).exists() for source in sources if source.startswith("."))
