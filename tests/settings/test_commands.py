"""`noetl-events config`, called in this process."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest

from consumers.cli.app import app
from consumers.settings import CONFIG, declared_settings
from tests.settings.files import CANARY, write

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in declared_settings():
        monkeypatch.delenv(setting.environ, raising=False)
    # The variable is set first, so that monkeypatch restores it after the test.
    monkeypatch.setenv(CONFIG, "")


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the output of `noetl-events`."""
    assert app.meta(arguments, result_action="return_value") == 0
    return capsys.readouterr().out


def test_show_names_value_and_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each setting is shown with its redacted value and its origin."""
    path = write(tmp_path / "settings.toml", f"[projector]\nto = ['postgresql://u:{CANARY}@h/d', 'noop:']\n")
    monkeypatch.setenv("NATS_TOKEN", CANARY)
    arguments = ("config", "show", "--config", str(path), "--nats", f"nats://u:{CANARY}@h")
    for_people = call(capsys, *arguments)
    rows = {row["key"]: row for row in json.loads(call(capsys, *arguments, "--json"))}

    assert CANARY not in f"{for_people}{rows}"
    assert [rows[key]["origin"] for key in ("projector.to", "nats.token", "nats.servers", "log.level")] == [
        str(path),
        "NATS_TOKEN",
        "command line",
        "default",
    ]
    assert rows["projector.to"]["value"] == ["postgresql://***@h/d", "noop:"]
    assert rows["nats.token"]["value"] == "***"
    assert len(rows) == len(declared_settings())


def test_the_variable_names_the_file_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`NOETL_CONFIG` names the file unless `--config` does."""
    monkeypatch.setenv(CONFIG, str(write(tmp_path / "a.toml", "[log]\nlevel = 'error'")))
    other = write(tmp_path / "b.toml", "[log]\nlevel = 'debug'")

    assert '"value":"error"' in call(capsys, "config", "show", "--json")
    assert '"value":"debug"' in call(capsys, "--config", str(other), "config", "show", "--json")


@pytest.mark.parametrize(
    ("file", "valid"),
    [
        pytest.param({}, True, id="nothing"),
        pytest.param({"projector": {"to": ["noop:"], "batch_size": 5}, "log": {"level": "debug"}}, True, id="some"),
        pytest.param({"projector": {"batchsize": 5}}, False, id="unknown key"),
        pytest.param({"projektor": {}}, False, id="unknown table"),
        pytest.param({"projector": {"batch_size": 0}}, False, id="too small"),
        pytest.param({"log": {"level": "loud"}}, False, id="no choice"),
    ],
)
def test_schema_judges_as_we_do(file: dict[str, Any], *, valid: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """The JSON schema accepts and refuses the same files as the settings."""
    schema = json.loads(call(capsys, "config", "schema"))

    assert jsonschema_rs.is_valid(schema, file) is valid


def test_schema_has_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    """The JSON schema describes every setting, with its variable."""
    definitions = json.loads(call(capsys, "config", "schema"))["$defs"]
    variables = {
        field["x-environ"]
        for name, table in definitions.items()
        if name != "Tables"
        for field in table["properties"].values()
    }

    assert variables == {setting.environ for setting in declared_settings()}
