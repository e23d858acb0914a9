"""The variables of the environment."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

import structlog

from consumers.settings.sections import declared_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIG: Final = "NOETL_CONFIG"
"""Names the settings file."""

_OURS: Final = ("NATS_", "NOETL_")
# Above this it is a slip of the finger; below, another program's.
_ALIKE: Final = 0.88

log = structlog.get_logger()


def warn_of_misspelt(environ: Mapping[str, str]) -> None:
    """
    Log a warning of each variable that is nearly one of ours.

    Not an error: other parts of NoETL, and Kubernetes, have variables of these beginnings too.
    """
    known = [setting.environ for setting in declared_settings()] + [CONFIG]
    for name in environ:
        if name.startswith(_OURS) and name not in known and (close := get_close_matches(name, known, 1, _ALIKE)):
            log.warning("settings.unknown_variable", name=name, did_you_mean=close[0])
