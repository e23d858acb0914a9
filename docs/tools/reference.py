"""
The reference, made from the code: `python -m docs.tools.reference` writes `docs/reference/`.

`tests/docs` fails if a page differs from the code.
"""

from __future__ import annotations

import inspect
import re
import sys
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeGuard

import msgspec

from consumers.cli.app import app, exit_code_of
from consumers.settings import Tables, declared_settings
from docs.tools.metrics import SUFFIXES, served_metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import ModuleType

    from prometheus_client.core import Metric

    from consumers.settings import Setting

FOLDER: Final = Path(__file__).parents[1] / "reference"

_MADE: Final = "<!-- Made from the code by `make reference`; what is written here by hand is lost. -->"

_ERRORS: Final = (
    "noetl_events.sink",
    "noetl_events.json_values",
    "noetl_events.sinks.spool.journal",
    "noetl_events.jetstream.errors",
    "consumers.settings.setting",
    "consumers.sinks.postgres.table",
)

_CLI_INTRO: Final = """
Every command takes `--config FILE` beside its own options, and `--help`.

| exit code | says |
|---|---|
| 0 | done |
| 1 | not done, and the last line on standard error says why; the same again may work |
| 2 | wrong arguments, settings or input: correct them first |
| 130 | interrupted from the keyboard |

[Errors](errors.md) has the code of each.
"""

_SETTINGS_INTRO: Final = """
The same settings stand in a TOML file, which `--config` or `NOETL_CONFIG` names, and in the environment.  An option of
the command line wins over a variable, a variable over the file; an empty variable counts as not set.  An unknown key of
the file is refused, with the nearest one there is.  `noetl-events config show` prints what holds and where it comes
from, `noetl-events config schema` the JSON schema of the file.

- **SIGHUP**: `kill -HUP` makes a running daemon take over a new value.  All others want a restart, and it says so.
- Each setting whose name ends in `_file` names a file that holds the value; give one of the two.  Files with secrets of
  NATS are read again at every connection.
"""

_VARIABLES: Final = (
    ("`NOETL_CONFIG`", "every command", "Path of the settings file."),
    (
        "`NOETL_SNOWFLAKE_NODE_ID`, else `NOETL_SHARD_ID`",
        "`emit`",
        "Node in the ids it makes, 0 to 1023; by default a hash of the host's name.",
    ),
    ("`PGPASSWORD`, `PGSSLMODE` and others of libpq", "Postgres destinations", "What the URL does not say."),
    (
        "`OTEL_EXPORTER_OTLP_ENDPOINT` and others of OpenTelemetry",
        "`project`, `serve`",
        "Where spans go; needs the extra `otel-sdk`.",
    ),
    ("`VISUAL`, else `EDITOR`", "`dead edit`", "The editor."),
)

_LIBRARY: Final = """
The library reads no variable by itself: a worker passes what it wants to `ConnectOptions`, `Snowflake` and the sinks.
"""

_METRICS_INTRO: Final = """
A projector serves them on `http://127.0.0.1:9464/metrics` (`--listen`), a gateway on its own address.  Beside them come
the `process_` metrics of the Prometheus client.  Of several replicas, sum up the counters; of a lag, take the maximum.
[`deploy/prometheus/alerts.yml`](../../deploy/prometheus/alerts.yml) alerts on them, and each alert has
[a page](../how-to/recover/README.md).
"""

_ERRORS_INTRO: Final = """
An error tells its caller what to do next.  On the command line it is one line on standard error, and the exit code.
Two of them are what a sink may raise, and all a projector or a worker has to know of one: `SinkUnavailable`, emit the
same events again later; `EventsRejected`, exactly these will never be taken.
"""

_SINKS_INTRO: Final = """
`--to` and `open_sink` take these URLs.  Another distribution adds a scheme of its own, see
[Write a sink](../how-to/write-a-sink.md).
In user and password, `/ ? # [ @ :` are written `%2F %3F %23 %5B %40 %3A`.
"""


def cli() -> str:
    """Return the page on the commands."""
    started_as = sys.argv[0]
    # Otherwise the usage lines would show how this process was started.
    sys.argv[0] = app.name[0]
    try:
        # The title and the usage line of the group itself add nothing, so they are left out.
        commands = app.generate_docs(output_format="markdown").partition("## Table of Contents\n")[2]
    finally:
        sys.argv[0] = started_as
    return _page("Command line", _CLI_INTRO, "## Commands\n" + commands)


def settings() -> str:
    """Return the page on the settings."""
    sections = (_section(name, kind) for name, kind in _sections())
    others = "## Read besides\n\n" + _table("variable | read by | says", _VARIABLES)
    return _page("Settings", _SETTINGS_INTRO, *sections, others, _LIBRARY)


def metrics() -> str:
    """Return the page on the metrics."""
    found = served_metrics()
    parts = [
        f"## {part.capitalize()}\n\n{_table('metric | type | labels | says', _metrics_of(part, found))}"
        for part in ("projector", "gateway")
    ]
    return _page("Metrics", _METRICS_INTRO, *parts)


def errors() -> str:
    """Return the page on the errors."""
    return _page("Errors", _ERRORS_INTRO, *(_module(import_module(name)) for name in _ERRORS))


def sinks() -> str:
    """Return the page on the URLs of sinks."""
    schemes: dict[str, list[str]] = {}
    points = sorted(entry_points(group="noetl_events.sinks"), key=lambda point: point.name)
    for point in points:
        # A third party's sink may be installed beside them.
        if point.dist and point.dist.name == "noetl-events":
            schemes.setdefault(point.value, []).append(point.name)
    return _page("Sinks", _SINKS_INTRO, *(_sink(value, names) for value, names in schemes.items()))


PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "cli.md": cli,
    "settings.md": settings,
    "metrics.md": metrics,
    "errors.md": errors,
    "sinks.md": sinks,
}


def main() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")


def _page(title: str, *parts: str) -> str:
    text = "\n\n".join([f"# {title}", _MADE, *(part.strip() for part in parts)])
    return re.sub(r"\n{3,}", "\n\n", text) + "\n"


def _table(head: str, rows: Iterable[tuple[str, ...]]) -> str:
    lines = [f"| {head} |", "|---" * (head.count("|") + 1) + "|"]
    # A bar would end the cell.
    return "\n".join(lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows])


def _sections() -> Iterator[tuple[str, type[msgspec.Struct]]]:
    return ((field.name, field.type) for field in msgspec.structs.fields(Tables))


def _section(name: str, kind: type[msgspec.Struct]) -> str:
    rows = (_setting(one) for one in declared_settings() if one.section == name)
    table = _table("setting | variable | takes | default | SIGHUP | says", rows)
    return f"## {name}\n\n{inspect.getdoc(kind)}\n\n{table}"


def _setting(one: Setting) -> tuple[str, ...]:
    default = "" if one.default in ("", ()) else f"`{one.shown(one.default).strip(chr(39))}`"
    return (f"`{one.key}`", f"`{one.environ}`", one.wanted, default, "yes" if one.reloadable else "", one.description)


def _metrics_of(part: str, found: list[Metric]) -> Iterator[tuple[str, ...]]:
    return (_metric(one) for one in found if one.name.startswith(f"noetl_{part}_"))


def _metric(one: Metric) -> tuple[str, ...]:
    names = ", ".join(f"`{one.name}{suffix}`" for suffix in SUFFIXES[one.type])
    labels = ", ".join(f"`{label}`" for label in _labels(one))
    return names, one.type, labels, one.documentation


def _labels(one: Metric) -> tuple[str, ...]:
    # The interface has no such field, and without a sample there is no other source.
    return tuple(getattr(one, "_labelnames", ()))


def _module(module: ModuleType) -> str:
    rows = [_error(kind) for _, kind in inspect.getmembers(module, inspect.isclass) if _is_ours(kind, module)]
    return f"## {module.__name__}\n\n" + _table("error | is a | exit code | says", rows)


def _is_ours(kind: type[Any], module: ModuleType) -> TypeGuard[type[BaseException]]:
    public = kind.__module__ == module.__name__ and not kind.__name__.startswith("_")
    return public and issubclass(kind, BaseException)


def _error(kind: type[BaseException]) -> tuple[str, ...]:
    code = exit_code_of(kind)
    above = ", ".join(f"`{base.__name__}`" for base in kind.__bases__)
    return f"`{kind.__name__}`", above, "" if code is None else str(code), _first_words(kind)


def _sink(value: str, names: list[str]) -> str:
    module, _, path = value.partition(":")
    opener = getattr(import_module(module), path.partition(".")[0])
    title = ", ".join(f"`{name}:`" for name in names)
    words = _first_words(opener) if inspect.isclass(opener) else ""
    how = inspect.getdoc(getattr(opener, "from_url", opener)) or ""
    return f"## {title}\n\n{words}\n\n{how.partition('Raises:')[0]}"


def _first_words(documented: object) -> str:
    return (inspect.getdoc(documented) or "").partition("\n\n")[0].replace("\n", " ")


if __name__ == "__main__":
    main()
