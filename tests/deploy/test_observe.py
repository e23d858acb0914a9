"""Alerts and dashboard: every metric in them is served, and every alert has a page."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import promql_parser
import pytest
from prometheus_client import CollectorRegistry, ProcessCollector

from docs.tools.metrics import SUFFIXES, served_metrics
from tests.deploy.files import ROOT, compose, documents

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

PROMETHEUS = ROOT / "deploy/prometheus"
GRAFANA = ROOT / "deploy/grafana"
PAGES = ROOT / "docs/how-to/recover"
RUNBOOKS = "https://github.com/noetl/noetl-events/blob/main/docs/how-to/recover/"


def alerts() -> list[Any]:
    """Return the alerting rules."""
    [found] = documents(PROMETHEUS / "alerts.yml")
    return [rule for group in found["groups"] for rule in group["rules"]]


def panels() -> list[Any]:
    """Return the panels of the dashboard."""
    found: list[Any] = json.loads((GRAFANA / "dashboards/noetl-events.json").read_text())["panels"]
    return found


def expressions() -> Iterator[str]:
    """Return every expression of the alerts and of the dashboard."""
    yield from (alert["expr"] for alert in alerts())
    for panel in panels():
        yield from (target["expr"].replace("$__rate_interval", "1m") for target in panel["targets"])


@pytest.fixture(scope="module")
def families() -> list[Metric]:
    """Return the metrics of a projector and of a gateway, and those of their processes."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return [*served_metrics(), *registry.collect()]


def served(families: list[Metric]) -> set[str]:
    """Return the names under which Prometheus stores *families*."""
    return {f"{family.name}{suffix}" for family in families for suffix in SUFFIXES[family.type]}


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_an_expression_is_of_metrics_that_are_served(expression: str, families: list[Metric]) -> None:
    """The expression is valid PromQL, and no metric in it is misspelt."""
    promql_parser.parse(expression)
    used = set(re.findall(r"\b(?:noetl|process)_\w+", expression))
    assert used
    assert used <= served(families)


def test_every_metric_says_what_it_is(families: list[Metric]) -> None:
    """Every metric has a HELP line, and a name with the project's prefix."""
    assert [family.name for family in families if not family.documentation.strip()] == []
    assert {family.name.split("_")[0] for family in families} == {"noetl", "process"}


def test_every_metric_of_ours_is_looked_at_or_left_out_by_name(families: list[Metric]) -> None:
    """A metric that neither an alert nor the dashboard uses is in this list."""
    used = " ".join(expressions())
    unused = {family.name for family in families if family.name.startswith("noetl_") and family.name not in used}
    assert unused == {
        "noetl_gateway_sent_again",
        "noetl_projector_batches",
        "noetl_projector_markers",
    }


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_says_what_to_do(alert: Any) -> None:
    """An alert has a severity, a summary, and a page with the checks and the remedy."""
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    assert alert["annotations"]["summary"].endswith(".")
    url = alert["annotations"]["runbook_url"]
    assert url.startswith(RUNBOOKS)
    page = (PAGES / url.removeprefix(RUNBOOKS)).read_text()
    assert page.startswith(f"# {alert['alert']}\n")
    assert "\n## Look at\n" in page
    assert "\n## Do\n" in page


def test_every_page_is_of_an_alert() -> None:
    """Every page belongs to an alert, and the list of pages is complete."""
    pages = {alert["annotations"]["runbook_url"].removeprefix(RUNBOOKS) for alert in alerts()}
    assert {path.name for path in PAGES.glob("*.md")} == pages | {"README.md"}
    assert set(re.findall(r"\((\S+\.md)\)", (PAGES / "README.md").read_text())) == pages


def test_prometheus_asks_what_listens() -> None:
    """Prometheus reads existing rules, and scrapes the services of `compose.yaml` on their ports."""
    [config] = documents(PROMETHEUS / "prometheus.yml")
    assert [(PROMETHEUS / name).exists() for name in config["rule_files"]] == [True]
    services = compose()["services"]
    for job in config["scrape_configs"]:
        [target] = job["dns_sd_configs"]
        [name] = target["names"]
        assert f"0.0.0.0:{target['port']}" in f"{services[name]['command']}{services[name]['environment']}"


def test_the_dashboard_is_provisioned_where_it_is_mounted() -> None:
    """Grafana finds the dashboards where compose mounts them, and the panels use the provisioned source."""
    [provider] = documents(GRAFANA / "provisioning/dashboards/noetl-events.yaml")[0]["providers"]
    [source] = documents(GRAFANA / "provisioning/datasources/prometheus.yaml")[0]["datasources"]
    assert (
        f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in compose()["services"]["grafana"]["volumes"]
    )
    assert {panel["datasource"]["uid"] for panel in panels()} == {source["uid"]}
