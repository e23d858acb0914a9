"""The options that several commands share."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Annotated

from cyclopts import Parameter, validators

from consumers.cli.moments import read_moment
from consumers.settings import Settings

Nats = Annotated[str | None, Parameter(help="URL of NATS; `NATS_URL` by default.", negative=())]
Partitions = Annotated[
    int | None, Parameter(help="Lanes of the stream; `NOETL_EVENT_STREAM_PARTITIONS` by default.", negative=())
]
AsJson = Annotated[bool, Parameter(name="--json", help="Print the result as JSON.", negative=())]
FromSequence = Annotated[
    int | None, Parameter(validator=validators.Number(gte=1), help="Begin with this sequence of the stream.")
]
FromTime = Annotated[
    str | None, Parameter(help="Begin at this time: `2026-05-31T03:14:15Z`, or `2h` for two hours ago.")
]


def read_settings(nats: str | None, *, partitions: int | None = None) -> Settings:
    """Return the settings of the environment, with *nats* and *partitions* from the command line on top."""
    lanes = {} if partitions is None else {"NOETL_EVENT_STREAM_PARTITIONS": str(partitions)}
    return Settings.from_environ(os.environ | lanes, nats=nats)


def read_start(from_sequence: int | None, from_time: str | None) -> int | datetime | None:
    """
    Return where to begin; None is the start of the stream.

    Raises:
        ValueError: both are given, or the time is none.

    """
    if from_sequence is not None and from_time is not None:
        raise ValueError("--from-sequence, --from-time: give one of them")
    return from_sequence if from_time is None else read_moment("--from-time", from_time)
