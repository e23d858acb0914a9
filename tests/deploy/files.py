"""The deployment files: the documents of the manifests, their containers, and how each starts."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy/kubernetes"
SCHEMAS = Path(__file__).parent / "schemas"


class Start(NamedTuple):
    """The start of a container: the arguments of `noetl-events`, and the names in its environment."""

    name: str
    arguments: list[str]
    environment: set[str]


def schema(name: str) -> Any:
    """Return a schema of `schemas/`."""
    return json.loads((SCHEMAS / f"{name}.json").read_text())


def documents(path: Path) -> list[Any]:
    """Return the documents of a YAML file."""
    return list(yaml.safe_load_all(path.read_text()))


def manifests() -> list[Any]:
    """Return every object of the base."""
    return [found for path in resources(KUBERNETES / "base") for found in documents(path)]


def resources(folder: Path) -> list[Path]:
    """Return the files that a kustomization names as resources."""
    [kustomization] = documents(folder / "kustomization.yaml")
    return [folder / name for name in kustomization["resources"]]


def pods() -> dict[str, Any]:
    """Return the pod templates of the base, by the name of their workload."""
    return {found["metadata"]["name"]: found["spec"]["template"] for found in manifests() if "template" in spec(found)}


def spec(manifest: Any) -> Any:
    """Return the spec of the object."""
    return manifest.get("spec", {})


def containers(pod: Any) -> list[Any]:
    """Return all containers of a pod template."""
    return [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]


def compose() -> Any:
    """Return `compose.yaml`."""
    [found] = documents(ROOT / "compose.yaml")
    return found


def starts() -> list[Start]:
    """Return the start of each of the project's containers in both deployments, health checks included."""
    return [*_kubernetes_starts(), *_compose_starts()]


def settings_of_base() -> dict[str, str]:
    """Return the settings in the ConfigMap of the base."""
    [kustomization] = documents(KUBERNETES / "base/kustomization.yaml")
    [generator] = kustomization["configMapGenerator"]
    return dict(literal.split("=", 1) for literal in generator["literals"])


def _kubernetes_starts() -> Iterator[Start]:
    for owner, pod in pods().items():
        for container in containers(pod):
            environment = {variable["name"] for variable in container.get("env", [])}
            shared = set(settings_of_base()) if "envFrom" in container else set()
            yield Start(f"{owner}/{container['name']}", container["args"], environment | shared)


def _compose_starts() -> Iterator[Start]:
    for name, service in compose()["services"].items():
        if not service["image"].startswith("noetl-events"):
            continue
        environment = set(service.get("environment", {}))
        scripted = service.get("entrypoint", [])[:1] == ["sh"]
        for words in _scripted(service["command"]) if scripted else [service["command"]]:
            yield Start(f"compose/{name}", words, environment)
        if check := service.get("healthcheck"):
            yield Start(f"compose/{name}/health", check["test"][2:], set())


def _scripted(command: list[str]) -> Iterator[list[str]]:
    """Return the arguments of each call of `noetl-events` in a shell script."""
    for line in command[0].splitlines():
        words = shlex.split(line)
        if "noetl-events" in words:
            yield words[words.index("noetl-events") + 1 :]
