"""The KubeRay manifests say what earnest relies on. They are read here, not applied to a Kubernetes cluster."""

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from serve.app import Arguments

ROOT = Path(__file__).parents[2]
MANIFESTS = sorted((ROOT / "infra" / "kuberay").glob("*.yaml"))


def cluster_of(path: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert manifest["apiVersion"] == "ray.io/v1"
    spec = manifest["spec"]
    cluster: dict[str, Any] = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    return cluster


def containers_of(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [container for group in groups for container in group["template"]["spec"]["containers"]]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_the_head_runs_no_workers_and_every_gpu_node_can(path: Path) -> None:
    cluster = cluster_of(path)
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in cluster["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert int(limits["cpu"]) >= int(limits["nvidia.com/gpu"]) >= 1
        assert group["minReplicas"] == group["maxReplicas"] == group["replicas"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_every_pod_demands_a_token_and_reaches_the_store(path: Path) -> None:
    for container in containers_of(cluster_of(path)):
        environment = {entry["name"]: entry for entry in container["env"]}
        assert environment["RAY_AUTH_MODE"]["value"] == "token"
        assert "secretKeyRef" in environment["RAY_AUTH_TOKEN"]["valueFrom"]
        assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/earnest"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_the_manifests_name_the_pinned_ray(path: Path) -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = re.search(r"^ray(?:\[[^\]]*\])?==(\S+)", pins, flags=re.MULTILINE)
    assert pinned is not None
    assert cluster_of(path)["rayVersion"] == pinned[1]


def test_the_job_runs_a_sweep_that_ships_into_the_mounted_store() -> None:
    job = yaml.safe_load((ROOT / "infra" / "kuberay" / "rayjob.yaml").read_text(encoding="utf-8"))["spec"]
    python, program, config, *options = shlex.split(job["entrypoint"])
    assert python == "python"
    assert (ROOT / program).is_file()
    assert (ROOT / config).is_file()
    assert options == ["--store", "/earnest/store"]


def test_the_service_serves_what_ships_from_the_mounted_config() -> None:
    service = yaml.safe_load((ROOT / "infra" / "kuberay" / "rayservice.yaml").read_text(encoding="utf-8"))
    graph = yaml.safe_load(service["spec"]["serveConfigV2"])
    (application,) = graph["applications"]
    module, builder = application["import_path"].split(":")
    assert callable(getattr(importlib.import_module(module), builder))
    assert Arguments.model_validate(application["args"]).config == "/earnest/serve.toml"
    for container in containers_of(cluster_of(ROOT / "infra" / "kuberay" / "rayservice.yaml")):
        assert {"containerPort": graph["http_options"]["port"], "name": "serve"} in container["ports"]
        assert {"name": "PYTHONPATH", "value": "/app"} in container["env"]


def test_metrics_are_read_where_they_are_served_with_a_key() -> None:
    monitor = yaml.safe_load((ROOT / "infra" / "prometheus" / "servicemonitor.yaml").read_text(encoding="utf-8"))
    (endpoint,) = monitor["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("serve", "/metrics")
    assert endpoint["authorization"]["credentials"] == {"name": "earnest-metrics-key", "key": "key"}
