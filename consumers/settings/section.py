"""What the tables of the settings file have in common."""

from __future__ import annotations

from typing import Final

import msgspec

NAME: Final = r"^[A-Za-z0-9_-]{1,64}$"
"""What NATS takes as a name of a stream or consumer, and every file system as a name of a folder."""

NAME_WANTED: Final = "letters, digits, _ and -, at most 64 of them"

PREFIX: Final = r"^[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64}){0,7}$"
"""First tokens of subjects, which a server, a permission and a file take without quotes."""

PREFIX_WANTED: Final = "tokens of letters, digits, _ and - with dots between"


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file; its repr, which may end up in a log, shows no value."""

    def __repr__(self) -> str:
        """Show the kind only."""
        return f"{type(self).__name__}(...)"
