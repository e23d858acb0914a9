"""The declaration of a setting: variable, unit, secrecy; and the error about its value."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args, get_origin

import msgspec
from msgspec import Meta

from noetl_events.jetstream.connect.servers import redacted


class SettingsError(ValueError):
    """A setting is invalid; the message names its origin, its value unless it is secret, and the allowed values."""


NAME: Final = r"^[A-Za-z0-9_-]{1,64}$"
"""Pattern of a name that NATS accepts for a stream or consumer, and every file system for a folder."""

NAME_WANTED: Final = "letters, digits, _ and -, at most 64 of them"

PREFIX: Final = r"^[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64}){0,7}$"
"""Pattern of a subject prefix that needs no quotes in a server's configuration, a permission or a file."""

PREFIX_WANTED: Final = "tokens of letters, digits, _ and - with dots between"


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file; its repr, which may end up in a log, shows no value."""

    def __repr__(self) -> str:
        """Return the kind only."""
        return f"{type(self).__name__}(...)"


Secrecy: TypeAlias = Literal["", "secret", "url"]

HIDDEN: Final = "***"

_WORDS: Final = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple: "a list of texts",
}
_LIMITS: Final = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
_NEXT_URL: Final = re.compile(r",(?=\s*[a-z]+://)")
_LONGEST: Final = 80
_MOST: Final = 8


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """
    A setting, as declared.

    Args:
        section: table of the file that contains the setting.
        field: key of the setting in its table.
        environ: variable that overrides the file.
        wanted: allowed values, in words.
        default: value if none is given.
        description: purpose of the setting.
        unit: unit of a number, or empty.
        secrecy: "secret" for a value that is never shown, "url" to hide user, password and query.
        is_file: whether the value is the path of a secret, which is reloaded at each use.
        reloadable: whether a running daemon applies a new value on SIGHUP.
        is_list: whether the value is a list, which a variable separates by white space.
        is_choice: whether the value is one of a few words, which a variable gives in any case.
        gap: two numbers; values between them are refused.

    """

    section: str
    field: str
    environ: str
    wanted: str
    default: Any
    description: str
    unit: str
    secrecy: Secrecy
    is_file: bool
    reloadable: bool
    is_list: bool
    is_choice: bool
    gap: tuple[float, float] | None = None

    @property
    def key(self) -> str:
        """Key of the setting in the file, such as `projector.batch_size`."""
        return f"{self.section}.{self.field}"

    @property
    def remedy(self) -> str:
        """The remedy for an invalid value."""
        example = f", as {self.shown(self.default)}" if self.default not in ("", ()) else ""
        return f"give {self.wanted}{example}"

    def shown(self, value: object) -> str:
        """Return *value*, valid or not, in printable form: short, and without secrets."""
        if isinstance(value, bool):
            return "true" if value else "false"
        return HIDDEN if self.secrecy == "secret" and value else repr(self.redacted(value))

    def redacted(self, value: object) -> object:
        """Return *value* without secrets."""
        if self.secrecy == "secret" and value:
            return HIDDEN
        return _without_secrets(value, urls=self.secrecy == "url")


def setting(
    description: str,
    environ: str,
    *,
    unit: str = "",
    secrecy: Secrecy = "",
    is_file: bool = False,
    reloadable: bool = False,
    wanted: str = "",
    gap: tuple[float, float] | None = None,
    **limits: Any,
) -> Meta:
    """Return the annotation of a field of a section; *limits* are those of `msgspec.Meta`."""
    ours = {
        "environ": environ,
        "unit": unit,
        "secrecy": secrecy,
        "is_file": is_file,
        "reloadable": reloadable,
        "wanted": wanted,
        "gap": gap,
    }
    schema: dict[str, Any] = {"x-environ": environ, "x-reloadable": reloadable} | ({"x-unit": unit} if unit else {})
    if gap:
        schema["not"] = {"exclusiveMinimum": gap[0], "exclusiveMaximum": gap[1]}
    if secrecy == "secret":
        schema["writeOnly"] = True
    return Meta(description=description, extra=ours, extra_json_schema=schema, **limits)


def settings_of(section: str, kind: type[msgspec.Struct]) -> list[Setting]:
    """Return the settings that *kind*, the struct of *section*, declares."""
    return [_setting_of(section, field) for field in msgspec.structs.fields(kind)]


def _setting_of(section: str, field: msgspec.structs.FieldInfo) -> Setting:
    if get_origin(field.type) is not Annotated:
        raise TypeError(f"{section}.{field.name}: annotate it with setting(...)")
    bare, meta = get_args(field.type)
    return Setting(
        section=section,
        field=field.name,
        default=field.default,
        description=meta.description,
        is_list=get_origin(bare) is tuple,
        is_choice=get_origin(bare) is Literal,
        **(meta.extra | {"wanted": meta.extra["wanted"] or _wanted(bare, meta)}),
    )


def _wanted(bare: Any, meta: Meta) -> str:
    if get_origin(bare) is Literal:
        return f"one of {', '.join(get_args(bare))}"
    if meta.extra and meta.extra["is_file"]:
        return "the path of a file"
    kind = get_origin(bare) or bare
    limits = [f"{word} {getattr(meta, name)}" for name, word in _LIMITS.items() if getattr(meta, name) is not None]
    if meta.extra and (gap := meta.extra["gap"]):
        limits[0] = f"{gap[0]:g} or at least {gap[1]:g}"
    unit = f" of {meta.extra['unit']}" if meta.extra and meta.extra["unit"] else ""
    return f"{_WORDS[kind]}{unit}{', ' if limits else ''}{' and '.join(limits)}"


def _without_secrets(value: object, *, urls: bool) -> object:
    if isinstance(value, str):
        text = ",".join(redacted(url.strip()) for url in _NEXT_URL.split(value)) if urls else value
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    if isinstance(value, list | tuple):
        return [_without_secrets(part, urls=urls) for part in value[:_MOST]] + ["..."] * (len(value) > _MOST)
    if isinstance(value, dict):
        # A table is never a valid value, so its content is not shown.
        return {"...": "..."}
    return value
