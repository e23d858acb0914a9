"""
Rights as nats-server reads them: a file to include, that defines a variable to use.

    include "projector.conf"
    accounts { NOETL { jetstream: enabled, users: [
        { user: projector, password: $PROJECTOR_PASSWORD, permissions: $NOETL_PROJECTOR }
    ] } }
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from consumers.permissions.rights import Right, Rights, Role

# Whatever could end the quotes around it, or stand for more than one subject.
_SUBJECT: Final = re.compile(r"[^\s\x00-\x1f\x7f\"\\]+")


def render_config(role: Role, rights: Rights) -> str:
    """
    Return *rights* as configuration.

    Raises:
        ValueError: a name among them cannot stand there.

    """
    lines = [
        f"# What the {role} may do: include this file, and give its user `permissions: ${_variable(role)}`.",
        f"{_variable(role)} {{",
        *_block("publish", rights.publish),
        *_block("subscribe", rights.subscribe),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _variable(role: Role) -> str:
    return f"NOETL_{role.upper()}"


def _block(name: str, rights: Iterable[Right]) -> Iterator[str]:
    yield f"  {name} {{ allow: ["
    for right in rights:
        yield f"    # {right.why}"
        yield f"    {_quoted(right)}"
    yield "  ] }"


def _quoted(right: Right) -> str:
    if not _SUBJECT.fullmatch(right.subject):
        raise ValueError(f"subject: {right.subject!r} holds a blank, a quote, a backslash or a control character")
    return f'"{right.subject} {right.queue}"' if right.queue else f'"{right.subject}"'
