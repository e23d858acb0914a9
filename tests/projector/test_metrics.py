"""The metrics of a scrape, compared with the events processed."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from consumers.projector.progress import Histogram
from consumers.projector.service import Service
from consumers.settings import ProjectorSettings, Settings
from noetl_events.jetstream.connection import Connection
from noetl_events.jetstream.declarations import DEAD_LETTERS, StreamDeclaration
from noetl_events.jetstream.options import ConnectOptions
from noetl_events.jetstream.streams import ensure_stream
from noetl_events.testing import eventually, make_events
from tests.projector.served import Moody, serving

if TYPE_CHECKING:
    from tests.projector.bench import Bench
    from tests.projector.served import Served

US = {"consumer": "projector"}


async def scrape(served: Served) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return every sample of `/metrics` by name and labels, and assert that none appears twice."""
    status, body = await served.get("/metrics")
    assert status == 200
    samples = [sample for family in text_string_to_metric_families(body.decode()) for sample in family.samples]
    found = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}
    assert len(found) == len(samples)
    return found


class Scrape:
    """The samples of one scrape."""

    def __init__(self, samples: dict[tuple[str, frozenset[tuple[str, str]]], float]) -> None:
        self._samples = samples

    def __call__(self, name: str, **labels: str) -> float:
        """Return the value of `noetl_projector_NAME` of the test's consumer."""
        return self._samples[f"noetl_projector_{name}", frozenset((US | labels).items())]

    def of_process(self, name: str, **labels: str) -> float:
        """Return the value of `noetl_projector_NAME` without a consumer label."""
        return self._samples[f"noetl_projector_{name}", frozenset(labels.items())]


async def test_counts_are_what_happened(bench: Bench) -> None:
    """After ten events and a malformed message every counter agrees, and the lag is zero."""
    await ensure_stream(bench.connection, DEAD_LETTERS)
    sink = Moody()
    await bench.publish([*make_events(10), b"not json"])
    async with serving(bench.connection, bench.stream, sink) as served:
        progress = served.service.progress["projector"]
        await eventually(lambda: progress.stored == 10 and progress.dead_letters == 1)
        await eventually(lambda: served.service.projectors[0].in_flight == 0)
        value = Scrape(await scrape(served))

    assert value("received_total") == 11
    assert value("redelivered_total") == 0
    assert value("stored_total") == 10
    assert value("duplicates_total") == sink.duplicates
    assert value("buried_total", kind="malformed") == 1
    assert value("buried_total", kind="rejected") == 0
    assert value("batches_total") == value("batch_events_count") == value("write_seconds_count") == progress.batches
    assert value("batch_events_sum") == 10
    assert value("batch_events_bucket", le="10.0") == progress.batches
    assert value("write_seconds_sum") > 0
    assert (value("in_hand"), value("lag_events"), value("lag_seconds")) == (0, 0, 0)
    assert (value("alive"), value("ready"), value("pinned"), value.of_process("connected")) == (1, 1, 1, 1)
    assert value("held_seconds_total") == 0
    assert value.of_process("stream_identity_changes_total") == 0
    assert value.of_process("build_info", version=version("noetl-events")) == 1


async def test_lag_is_what_the_server_says(bench: Bench) -> None:
    """During an outage of the sink the lag is the server's count of unacknowledged messages, and the oldest's age."""
    sink = Moody()
    sink.away = "maintenance"
    began = time.time()
    await bench.publish(make_events(30))
    async with serving(bench.connection, bench.stream, sink, batch_size=4) as served:
        await eventually(lambda: served.service.projectors[0].in_flight == 30)
        # The server's count was read after a third of them: those pending then are in flight now, and count once.
        served.service.projectors[0].progress.set_pending(20, as_of=10)
        value = Scrape(await scrape(served))
        unsettled, age = await bench.unsettled(), time.time() - began
        sink.away = ""
        await eventually(lambda: len(sink.events) == 30)

    assert value("lag_events") == unsettled == 30
    assert value("in_hand") == 30
    assert 0 < value("lag_seconds") <= age
    assert value("holding", part="sink") == 1
    assert value("holding", part="nats") == 0
    assert value("ready") == 0
    assert value("alive") == 1
    assert 0 < value("held_seconds_total") <= age


async def test_held_seconds_never_fall(bench: Bench) -> None:
    """The time of an outage is counted while it lasts, and does not fall when it ends."""
    sink = Moody()
    sink.away = "maintenance"
    await bench.publish(make_events(1))
    async with serving(bench.connection, bench.stream, sink) as served:
        progress = served.service.progress["projector"]
        await eventually(lambda: progress.holding)
        first = Scrape(await scrape(served))("held_seconds_total")
        sink.away = ""
        await eventually(lambda: progress.stored == 1)
        second = Scrape(await scrape(served))("held_seconds_total")

    assert 0 < first <= second


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"], ids=["plain", "OpenMetrics"])
async def test_text_is_valid(bench: Bench, accept: str) -> None:
    """Both formats are accepted by their parsers, and every counter ends with `_total`."""
    async with serving(bench.connection, bench.stream, Moody()) as served:
        await eventually(served.is_ready)
        _, body = await served.get("/metrics", accept)
    parse = openmetrics.text_string_to_metric_families if accept else text_string_to_metric_families
    families = [family for family in parse(body.decode()) if family.name.startswith("noetl_")]

    assert len(families) == 25
    for family in families:
        assert family.documentation.endswith(".")
        assert family.type in {"counter", "gauge", "histogram", "info"} or family.name.endswith("_info")
        for sample in family.samples:
            assert set(sample.labels) <= {"consumer", "kind", "part", "le", "version"}
            assert (family.type == "counter") == sample.name.endswith("_total")


def test_counts_outlive_the_projector_of_a_lane() -> None:
    """The counters of a partition continue after it was given away and taken back; in between it has no lag here."""
    options = ConnectOptions()
    settings = Settings(connect=options, stream=StreamDeclaration(partitions=2), projector=ProjectorSettings())
    service = Service(settings, Connection(options), ["memory:"], durable="projector")
    before = service._projector(service.channels[0])
    before.progress.stored, before.progress.pending = 3, 9
    after = service._projector(service.channels[0])

    assert (after.progress.stored, after.progress.pending) == (3, 0)
    assert after.progress is service.progress["projector_0"]
    assert list(service.progress) == ["projector_0", "projector_1"]


def test_histogram() -> None:
    """A value counts in the bucket with the bound that it does not exceed, and in every larger one."""
    histogram = Histogram([1.0, 2.0])
    for value in (0.5, 1.0, 1.5, 99.0):
        histogram.add(value)

    assert histogram.buckets() == [("1.0", 2.0), ("2.0", 3.0), ("+Inf", 4.0)]
    assert histogram.sum == 102.0
