"""`compose.yaml`, against the Compose specification, and against the files it mounts."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

import jsonschema_rs
import pytest

from consumers.settings import DaemonSettings
from tests.deploy.files import ROOT, compose, schema

SERVICES = compose()["services"]
DAEMONS = ("projector", "gateway")


def faults(found: Any) -> list[str]:
    """Return the violations of the Compose specification in *found*."""
    return [error.message for error in jsonschema_rs.validator_for(schema("compose")).iter_errors(found)]


def test_it_is_one_compose_takes() -> None:
    """Every key is in the specification, and a misspelt one is a fault."""
    assert faults(compose()) == []
    broken = deepcopy(compose())
    broken["services"]["nats"]["healtcheck"] = {}
    assert "healtcheck" in "".join(faults(broken))


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_no_rights_it_does_not_use(name: str) -> None:
    """A service is read-only, without capabilities, with an image version, and has ports only on loopback."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert re.search(r":v?[\w.-]+$", service["image"])
    assert not service["image"].endswith(":latest")
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_is_there(name: str) -> None:
    """Each mounted file and folder exists, each volume is declared, and each awaited service has a health check."""
    for volume in SERVICES[name].get("volumes", []):
        source = volume.split(":")[0]
        assert (ROOT / source).exists() if source.startswith(".") else source in compose()["volumes"]
    for other, how in dict(_waited_for(name)).items():
        assert how != "service_healthy" or "healthcheck" in SERVICES[other]


def _waited_for(name: str) -> Any:
    waited = SERVICES[name].get("depends_on", {})
    return {other: how["condition"] for other, how in waited.items()} if isinstance(waited, dict) else {}


@pytest.mark.parametrize("name", DAEMONS)
def test_a_daemon_has_time_to_stop(name: str) -> None:
    """A daemon is killed only after its own deadline, and checked with the project's own command."""
    assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > DaemonSettings().stop_deadline
    assert SERVICES[name]["healthcheck"]["test"][:3] == ["CMD", "noetl-events", "health"]


@pytest.mark.parametrize("name", ["setup", "worker", *DAEMONS])
def test_each_service_comes_to_nats_as_a_role_of_its_own(name: str) -> None:
    """Each user exists on the server with its own inbox, and both sides have the password from one variable."""
    environment = SERVICES[name]["environment"]
    role = environment["NATS_USER"]
    assert f"user: {role}\n" in (ROOT / "deploy/nats/users.conf").read_text()
    assert environment["NATS_INBOX_PREFIX"] == f"_INBOX_{role}"
    assert environment["NATS_PASSWORD"] == SERVICES["nats"]["environment"][f"NATS_{role.upper()}_PASSWORD"]


def test_the_roles_are_all_different() -> None:
    """Each service has another user."""
    users = [SERVICES[name]["environment"]["NATS_USER"] for name in ("setup", "worker", *DAEMONS)]
    assert len(set(users)) == len(users)
