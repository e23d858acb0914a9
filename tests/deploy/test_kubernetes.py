"""The manifests, against the schemas of Kubernetes, and against each other."""

from __future__ import annotations

import shutil
import subprocess
from copy import deepcopy
from typing import Any

import jsonschema_rs
import pytest
import yaml

from consumers.settings import DaemonSettings
from tests.deploy.files import KUBERNETES, containers, documents, manifests, pods, resources, schema, spec

DEFINITIONS = schema("kubernetes")["definitions"]
OVERLAY = KUBERNETES / "overlays/example"


def faults(manifest: Any) -> list[str]:
    """Return the violations of its kind's schema in *manifest*."""
    kind = manifest["kind"]
    assert kind in DEFINITIONS, f"{kind} has no schema in tests/deploy/schemas"
    validator = jsonschema_rs.validator_for({"$ref": f"#/definitions/{kind}", "definitions": DEFINITIONS})
    return [f"{'/'.join(map(str, error.instance_path))}: {error.message}" for error in validator.iter_errors(manifest)]


@pytest.mark.parametrize("manifest", manifests(), ids=lambda found: f"{found['kind']}-{found['metadata']['name']}")
def test_every_manifest_is_one_kubernetes_takes(manifest: Any) -> None:
    """Each object has only fields of its kind."""
    assert faults(manifest) == []


def test_a_field_that_kubernetes_does_not_have_is_found() -> None:
    """A misspelt nested field is a fault."""
    broken = deepcopy(next(found for found in manifests() if found["kind"] == "Deployment"))
    broken["spec"]["template"]["spec"]["containers"][0]["livenessProbes"] = {}
    assert "livenessProbes" in "".join(faults(broken))


@pytest.mark.parametrize("folder", [KUBERNETES / "base", OVERLAY], ids=lambda folder: folder.name)
def test_every_file_belongs_to_its_kustomization(folder: Any) -> None:
    """Every file that a kustomization names exists, and every existing file is named."""
    [kustomization] = documents(folder / "kustomization.yaml")
    named = {*kustomization["resources"], *(patch["path"] for patch in kustomization.get("patches", []))}
    files = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
    assert files == {name for name in named if name.endswith(".yaml")}
    assert all(path.exists() for path in resources(folder))


def test_every_patch_finds_what_it_changes() -> None:
    """Each patch of the example changes an object of the base, and a container that exists."""
    known = {(found["kind"], found["metadata"]["name"]): found for found in manifests()}
    [kustomization] = documents(OVERLAY / "kustomization.yaml")
    for patch in kustomization["patches"]:
        [change] = documents(OVERLAY / patch["path"])
        target = known[change["kind"], change["metadata"]["name"]]
        names = {
            container["name"] for container in containers(spec(target).get("template", {"spec": {"containers": []}}))
        }
        changed = spec(change).get("template", {"spec": {"containers": []}})
        assert {container["name"] for container in containers(changed)} <= names


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_the_example_builds() -> None:
    """`kubectl kustomize` builds the example, and its result is valid."""
    command = ["kubectl", "kustomize", str(OVERLAY)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert built.returncode == 0, built.stderr
    found = list(yaml.safe_load_all(built.stdout))
    assert {manifest["metadata"]["namespace"] for manifest in found} == {"noetl"}
    assert [fault for manifest in found for fault in faults(manifest)] == []


@pytest.mark.parametrize("owner", pods())
def test_a_pod_has_no_rights_it_does_not_use(owner: str) -> None:
    """A pod has no root, no token, no capability, no writes outside /tmp, and a memory limit."""
    pod = pods()[owner]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(pods()[owner]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}


@pytest.mark.parametrize("owner", ["noetl-projector", "noetl-gateway"])
def test_a_daemon_is_asked_how_it_is_and_has_time_to_stop(owner: str) -> None:
    """Its probes are its endpoints on a port that it names, and it is killed only after its own deadline."""
    pod = pods()[owner]["spec"]
    [container] = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    probes = {name: container[name]["httpGet"] for name in ("livenessProbe", "readinessProbe")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }
    assert {probe["port"] for probe in probes.values()} <= ports.keys()
    listen = str(container["args"]) + str(container["env"])
    assert all(f"0.0.0.0:{port}" in listen for port in ports.values())
    pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert pod["terminationGracePeriodSeconds"] > DaemonSettings().stop_deadline + pause


def test_every_selector_selects_a_pod() -> None:
    """Services, budgets, policies and deployments select existing pods by the pods' labels."""
    labels = [pod["metadata"]["labels"] | {"app.kubernetes.io/part-of": "noetl-events"} for pod in pods().values()]
    for manifest in manifests():
        selector = spec(manifest).get("selector") or spec(manifest).get("podSelector")
        if selector is None:
            continue
        wanted = (
            selector.get("matchLabels", {}) if "matchExpressions" in selector else selector.get("matchLabels", selector)
        )
        for expression in selector.get("matchExpressions", []):
            names = {label[expression["key"]] for label in labels}
            assert set(expression["values"]) <= names, manifest["metadata"]
        assert any(wanted.items() <= label.items() for label in labels), manifest["metadata"]


def test_what_a_pod_mounts_is_a_volume_it_has() -> None:
    """Each mount has a volume, each volume is mounted, and a file named in the environment is below one."""
    for pod in pods().values():
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        mounts = [mount for container in containers(pod) for mount in container.get("volumeMounts", [])]
        assert {mount["name"] for mount in mounts} == volumes
        files = [
            entry["value"]
            for container in containers(pod)
            for entry in container.get("env", [])
            if entry["name"].endswith("_FILE")
        ]
        assert all(any(name.startswith(mount["mountPath"] + "/") for mount in mounts) for name in files)
