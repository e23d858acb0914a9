"""`noetl-events doctor` and `noetl-events permissions`, as a user starts them."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import structlog

from consumers.cli.permissions import permissions
from consumers.doctor.check import Finding
from consumers.permissions import RoleContext, grants_of, render_config, rights_of
from noetl_events.jetstream.declarations import StreamDeclaration

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _logs() -> Iterator[None]:
    """Restore the logging after a command, because its standard error is gone after the test."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def test_doctor(nats_url: str) -> None:
    """A fault is exit code 1, and `--json` prints every finding without log lines."""
    program = str(Path(sysconfig.get_path("scripts")) / "noetl-events")
    command = [program, "doctor", "--json", "--nats", nats_url]
    environ = os.environ | {"NOETL_EVENT_STREAM": "no_such_stream"}
    done = subprocess.run(command, check=False, capture_output=True, timeout=300, env=environ)
    findings = msgspec.json.decode(done.stdout, type=list[Finding])

    assert (done.returncode, done.stderr) == (1, b"")
    assert ("stream", "fault") in {(one.check, one.severity) for one in findings}


def test_permissions(capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints a file for nats-server to include; with `--sql` grants without a password."""
    permissions("publisher")
    config = capsys.readouterr().out
    permissions("projector", to=("postgresql://projector:secret@db/noetl",), sql=True)
    grants = capsys.readouterr().out

    assert config.startswith("# Permissions of the publisher")
    assert 'TO "projector";' in grants
    assert "secret" not in grants


def test_hostile_names() -> None:
    """A name that would end its quotes is refused in the configuration, and quoted in SQL."""
    work = RoleContext(stream=StreamDeclaration(subjects=('x" ] } }',)))
    with pytest.raises(ValueError, match="holds a blank, a quote"):
        render_config("publisher", rights_of("publisher", work))
    with pytest.raises(ValueError, match=r"is not schema\.table"):
        grants_of("projector", "postgresql://u@db/noetl?table=a.b;DROP")

    assert 'TO "u""; DROP";' in grants_of("projector", "postgresql://u%22%3B%20DROP@db/noetl")
