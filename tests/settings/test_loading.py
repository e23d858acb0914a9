"""The sources of settings, and their precedence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from consumers.settings import Settings, declared_settings, load
from consumers.settings.declared import section_kinds
from tests.settings.files import CANARY, refusal, write

if TYPE_CHECKING:
    from consumers.settings import Setting

BATCH = "NOETL_EVENT_STREAM_BATCH"


def named(key: str) -> Setting:
    """Return the setting *key*."""
    return next(setting for setting in declared_settings() if setting.key == key)


@pytest.mark.parametrize(
    ("in_file", "in_environ", "chosen", "value", "origin"),
    [
        pytest.param(None, None, None, 2_000, "default", id="default"),
        pytest.param(1, None, None, 1, "settings.toml", id="file"),
        pytest.param(1, "2", None, 2, BATCH, id="environment"),
        pytest.param(1, "2", 3, 3, "command line", id="command line"),
        pytest.param(1, "", None, 1, "settings.toml", id="empty variable"),
    ],
)
def test_who_wins(
    in_file: int | None, in_environ: str | None, chosen: int | None, value: int, origin: str, tmp_path: Path
) -> None:
    """The command line wins over the environment, that over the file, that over the default; each origin is named."""
    path = write(tmp_path / "settings.toml", f"[projector]\nbatch_size = {in_file}\n" if in_file else "")
    environ = {} if in_environ is None else {BATCH: in_environ}
    loaded = load(environ, config=path, chosen={"projector.batch_size": chosen})

    assert loaded.settings.projector.batch_size == value
    assert loaded.origin(named("projector.batch_size")).endswith(origin)


def test_everything_at_once(tmp_path: Path) -> None:
    """A file with every kind of value reaches every part of the process."""
    text = """
    [nats]
    servers = "nats://one:4222,nats://two:4222"
    tls_first = true
    [stream]
    max_age = 600
    [projector]
    to = ["sqlite:///a.db", "postgresql://one,two/db?table=a.b"]
    [gateway]
    listen = "127.0.0.1:1"
    [log]
    level = "debug"
    """
    settings = load({}, config=write(tmp_path / "settings.toml", text)).settings

    assert [str(url) for url in settings.connect.urls] == ["nats://one:4222", "nats://two:4222"]
    assert settings.connect.tls_first
    assert settings.stream.max_age == 600.0
    assert settings.projector.to == ("sqlite:///a.db", "postgresql://one,two/db?table=a.b")
    assert (settings.gateway.listen, settings.log.level) == ("127.0.0.1:1", "debug")


def test_text_of_the_environment() -> None:
    """A variable is read as its setting's type: a list by white space, a choice in any case, a boolean by 1 or true."""
    loaded = load(
        {
            "NOETL_PROJECTOR_TO": "noop: \n postgresql://one,two/db",
            "NOETL_PROJECTOR_STANDBY": "1",
            "NOETL_LOG_LEVEL": "WARNING",
            "NOETL_STALL_SECS": "2.5",
        }
    )

    assert loaded.settings.projector.to == ("noop:", "postgresql://one,two/db")
    assert loaded.settings.projector.standby
    assert loaded.settings.log.level == "warning"
    assert loaded.settings.projector.stall_after == 2.5


@pytest.mark.parametrize("setting", declared_settings(), ids=lambda setting: setting.key)
def test_every_setting_can_be_given_both_ways(setting: Setting, tmp_path: Path) -> None:
    """Every setting is known to file and environment under its names, and its default is valid."""
    wrong = f"[{setting.section}]\n{setting.field} = {{ a = 1 }}\n"

    assert refusal(write(tmp_path / "settings.toml", wrong)).startswith(f"{tmp_path}/settings.toml: {setting.key}: ")
    assert refusal(environ={setting.environ: "\x07"}).startswith(f"{setting.environ}: ")
    assert setting.description.endswith(".")
    assert setting.wanted


def test_names_are_given_once() -> None:
    """No two settings share a key or a variable."""
    keys = [setting.key for setting in declared_settings()]
    names = [setting.environ for setting in declared_settings()]

    assert len(set(keys)) == len(keys)
    assert len(set(names)) == len(names)


def test_urls_in_a_file_of_their_own(tmp_path: Path) -> None:
    """URLs, which may hold passwords, can be listed in a separate file, one a line."""
    urls = write(tmp_path / "urls", f"noop:\npostgresql://u:{CANARY}@h/db\n")
    loaded = load({"NOETL_PROJECTOR_TO_FILE": str(urls)})

    assert loaded.settings.projector.to == ("noop:", f"postgresql://u:{CANARY}@h/db")
    assert loaded.origin(named("projector.to")) == "NOETL_PROJECTOR_TO_FILE"


def test_the_other_way_to_say_it(tmp_path: Path) -> None:
    """A password variable replaces a password file of the file; in one source, both together are refused."""
    secret = write(tmp_path / "secret", "from-file\n")
    path = write(tmp_path / "settings.toml", f'[nats]\nuser = "u"\npassword_file = "{secret}"\n')
    both = write(tmp_path / "both.toml", f'[nats]\nuser = "u"\npassword = "{CANARY}"\npassword_file = "{secret}"\n')
    connect = load({"NATS_PASSWORD": "p"}, config=path).settings.connect

    assert load({}, config=path).settings.connect.password_file == str(secret)
    assert (connect.password, connect.password_file) == ("p", None)
    assert "nats.password, " in refusal(both)
    assert "both are set; give one of them" in refusal(both)


def test_misspelt_variable() -> None:
    """A variable that nearly matches a setting causes a warning; foreign variables do not."""
    with capture_logs() as lines:
        load({"NOETL_EVENT_STREAM_BACTH": "1", "NATS_PORT": "tcp://10.0.0.1:4222", "NOETL_FAULTS": "long"})

    assert [(line["event"], line["name"], line["did_you_mean"]) for line in lines] == [
        ("settings.unknown_variable", "NOETL_EVENT_STREAM_BACTH", BATCH)
    ]


def test_defaults_alone_are_settings() -> None:
    """Every setting has a default."""
    assert isinstance(load({}).settings, Settings)


def test_the_example_is_allowed() -> None:
    """The example has every table, shows the defaults, and marks the reloadable settings."""
    path = Path(__file__).parents[2] / "examples" / "settings.toml"
    loaded = load({}, config=path)
    marked = {line.partition(" =")[0] for line in path.read_text().splitlines() if line.endswith("# (SIGHUP)")}

    assert {key.partition(".")[0] for key in loaded.origins} == set(section_kinds())
    assert marked == {setting.field for setting in declared_settings() if setting.reloadable}
    for setting in declared_settings():
        if setting.key in loaded.origins and setting.key not in ("projector.to", "projector.listen"):
            assert loaded.value(setting) == setting.default


def test_every_stream_is_on_as_many_servers() -> None:
    """A cluster that loses a server keeps its dead letters, and no projector waits for their stream."""
    streams = load({"NOETL_EVENT_STREAM_REPLICAS": "3"}).settings.streams

    assert {stream.name: stream.replicas for stream in streams} == {
        "noetl_events": 3,
        "noetl_events_dead": 3,
        "noetl_events_trials": 3,
    }
