"""The files of cluster/ speak of metrics that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

CLUSTER = Path(__file__).parents[2] / "cluster"
METRICS = CLUSTER.parent / "orchestrator" / "engine" / "executors" / "ray_metrics.py"


def test_every_metric_on_the_grafana_dashboard_is_one_that_a_run_exports() -> None:
    dashboard = json.loads((CLUSTER / "grafana" / "orchestrator.json").read_text())
    text = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    shown = {re.sub("_(total|bucket)$", "", name) for name in re.findall(r"ray_(orchestrator_\w+)", text)}
    exported = set(re.findall(r'"(orchestrator_\w+)"', METRICS.read_text()))
    assert shown == exported


def test_prometheus_keeps_our_metrics_when_it_scrapes_ray() -> None:
    content = yaml.safe_load((CLUSTER / "prometheus.yml").read_text())
    (scrape,) = content["scrape_configs"]
    (rule,) = scrape["metric_relabel_configs"]
    assert rule["action"] == "keep"
    assert re.fullmatch(rule["regex"], "ray_orchestrator_nodes")
    assert scrape["file_sd_configs"][0]["files"][0].endswith("prom_metrics_service_discovery.json")
