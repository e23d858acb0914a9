"""Where a projector process carries to: each destination with consumers of its own, so that none waits for another."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from noetl_events.jetstream.connect.servers import redacted
from noetl_events.jetstream.declarations import MAX_ACK_PENDING, ConsumerDeclaration

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from noetl_events.jetstream.declarations import StreamDeclaration


class Destination(msgspec.Struct, frozen=True):
    """
    One destination.

    Args:
        url: of its sink.
        durable: the name its consumers begin with; its progress in the stream is kept under it.

    """

    url: str
    durable: str

    def consumers(
        self,
        stream: StreamDeclaration,
        *,
        ack_wait: float,
        pin_ttl: float,
        exclusive: bool,
        max_ack_pending: int = MAX_ACK_PENDING,
    ) -> Iterator[ConsumerDeclaration]:
        """Yield the consumers that read for it: one, or one for each lane of a partitioned *stream*."""
        if exclusive or stream.partitions:
            # A new pin comes with a message: when the dead puller had all there are, with the first delivered again.
            ack_wait = min(ack_wait, pin_ttl)
        if not stream.partitions:
            yield ConsumerDeclaration(
                name=self.durable,
                stream=stream.name,
                ack_wait=ack_wait,
                max_ack_pending=max_ack_pending,
                pin_ttl=pin_ttl,
                exclusive=exclusive,
            )
        for lane in range(stream.partitions):
            yield ConsumerDeclaration(
                name=f"{self.durable}_{lane}",
                stream=stream.name,
                filter_subjects=stream.lane_filters(lane),
                partitions=stream.partitions,
                ack_wait=ack_wait,
                max_ack_pending=max_ack_pending,
                pin_ttl=pin_ttl,
                exclusive=True,
            )


def destinations_of(urls: Sequence[str], durable: str) -> list[Destination]:
    """
    Return a destination for each of *urls*: one alone is called *durable*, several by what they are.

    By what they are, and not by their place: two that change places must not take over each other's progress.

    Raises:
        ValueError: one is given twice.

    """
    if len(urls) == 1:
        return [Destination(urls[0], durable)]
    names = [f"{durable}_{_label(url)}" for url in urls]
    for url, name in zip(urls, names, strict=True):
        if names.count(name) > 1:
            raise ValueError(f"to: {redacted(url)!r} is given twice; give each destination once")
    return [Destination(url, name) for url, name in zip(urls, names, strict=True)]


def _label(url: str) -> str:
    parts = urlsplit(url)
    # Neither user nor password: a new password is no new destination.
    place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}?{parts.query}"
    return f"{parts.scheme}_{hashlib.blake2b(place.encode(), digest_size=4).hexdigest()}"
