"""Destinations of a projector process: each has consumers of its own, so none waits for another."""

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
    A destination: a sink and the consumers that feed it.

    Args:
        url: URL of the sink.
        durable: prefix of the consumer names; the stream keeps the destination's progress under these names.

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
        """Yield the consumers that read for this destination: a single one, or one per partition of *stream*."""
        if exclusive or stream.partitions:
            # The server pins a new client only when it delivers a message.  If the dead client held all of them, that
            # is after ack_wait.
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
        for partition in range(stream.partitions):
            yield ConsumerDeclaration(
                name=f"{self.durable}_{partition}",
                stream=stream.name,
                filter_subjects=stream.partition_filters(partition),
                partitions=stream.partitions,
                ack_wait=ack_wait,
                max_ack_pending=max_ack_pending,
                pin_ttl=pin_ttl,
                exclusive=True,
            )


def destinations_of(urls: Sequence[str], durable: str) -> list[Destination]:
    """
    Return a destination for each of *urls*; with several, each name is *durable* plus a hash of the URL.

    The hash does not depend on the order of the URLs, so reordering them cannot swap their progress.

    Raises:
        ValueError: a URL is given twice.

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
    # The label excludes user and password, so a new password does not make a new destination.
    place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}?{parts.query}"
    return f"{parts.scheme}_{hashlib.blake2b(place.encode(), digest_size=4).hexdigest()}"
