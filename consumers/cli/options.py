"""The options that several commands share."""

from __future__ import annotations

import os
from typing import Annotated

from cyclopts import Parameter

from consumers.settings import Settings

Nats = Annotated[str | None, Parameter(help="URL of NATS; `NATS_URL` by default.", negative=())]
AsJson = Annotated[bool, Parameter(name="--json", help="Print the result as JSON.", negative=())]


def read_settings(nats: str | None) -> Settings:
    """Return the settings of the environment, with *nats* from the command line on top."""
    return Settings.from_environ(os.environ, nats=nats)
