"""Which setting says what a field of a stream's configuration shall be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from consumers.settings.sections import declared_settings

if TYPE_CHECKING:
    from consumers.settings.setting import Setting
    from noetl_events.jetstream.declarations import StreamKind

_SECTIONS: Final[dict[StreamKind, str]] = {"events": "stream", "dead letters": "dead_letters", "trials": "trials"}
# Of all three streams.
_SHARED: Final = {"duplicate_window": "duplicate_window", "num_replicas": "replicas"}
_OF_EACH: Final = {"max_age": "max_age", "max_bytes": "max_bytes", "name": "name", "subjects": "subject"}


def setting_of(kind: StreamKind, field: str) -> Setting | None:
    """Return the setting that says what *field* of the stream of that *kind* shall be; None if none does."""
    if field in _SHARED:
        key = f"stream.{_SHARED[field]}"
    elif field == "subject_transform" and kind == "events":
        key = "stream.partitions"
    else:
        key = f"{_SECTIONS[kind]}.{_OF_EACH.get(field, '')}"
    return next((setting for setting in declared_settings() if setting.key == key), None)
