"""
Metrics of a projector process for Prometheus, read at scrape time, so they cost the loop nothing.

Labels are the consumer and, for some metrics, a dependency or a kind, so the number of series is bounded.  Each replica
reports its own work and the state of its consumers.  Across replicas, sum the counters and take the maximum of a lag.
"""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Final, NamedTuple, get_args

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)

from consumers.dead_letters import Kind
from consumers.projector.progress import PARTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.core import Metric

    from consumers.projector.progress import Histogram, Progress
    from consumers.projector.service import Service

# Projectors store no dead letter of the kind "exhausted": that kind is for consumers with a delivery limit.
_KINDS: Final = tuple(kind for kind in get_args(Kind) if kind != "exhausted")


class _Count(NamedTuple):
    name: str
    help: str
    of: Callable[[Progress], float]


class _Spread(NamedTuple):
    name: str
    help: str
    of: Callable[[Progress], Histogram]


_COUNTS: Final = (
    _Count("received", "Messages delivered.", lambda progress: progress.received),
    _Count("redelivered", "Messages delivered again.", lambda progress: progress.redelivered),
    _Count("stored", "Events stored and acknowledged.", lambda progress: progress.stored),
    _Count("refused", "Requests the server refused; the log has the reason.", lambda progress: progress.refused),
    _Count("skipped", "Resent dead letters addressed to another consumer.", lambda progress: progress.skipped),
    _Count(
        "passed_over", "Messages a consumer skipped and delivered after a reset.", lambda progress: progress.passed_over
    ),
    _Count("markers", "Messages written by the server, acknowledged.", lambda progress: progress.markers),
    _Count("batches", "Successful writes.", lambda progress: progress.batches),
    _Count(
        "held_seconds",
        "Time spent waiting for an unavailable dependency.",
        lambda progress: progress.held(time.monotonic()),
    ),
)
_SPREADS: Final = (
    _Spread("batch_events", "Events per write.", lambda progress: progress.batch_events),
    _Spread("write_seconds", "Duration of a write.", lambda progress: progress.write_seconds),
)


class ProjectorMetrics:
    """
    The collector of *service*, for a registry of prometheus-client.

    Counters survive a partition that moves to another replica and returns.  Gauges such as the lag exist only while the
    projector runs.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """Yield every metric with its current value."""
        for count in _COUNTS:
            yield self._counted(count)
        for spread in _SPREADS:
            yield self._spread(spread)
        yield self._buried()
        yield self._of_sinks("duplicates", "Events the destination already had, if the sink counts them.")
        yield self._of_sinks(
            "variants", "Events the destination already had with another payload, if the sink counts them."
        )
        yield from self._lags()
        yield self._holding()
        yield from self._states()
        yield from self._process()

    def _counted(self, count: _Count) -> Metric:
        family = CounterMetricFamily(_full(count.name), count.help, labels=["consumer"])
        for consumer, progress in self._service.progress.items():
            family.add_metric([consumer], count.of(progress))
        return family

    def _spread(self, spread: _Spread) -> Metric:
        family = HistogramMetricFamily(_full(spread.name), spread.help, labels=["consumer"])
        for consumer, progress in self._service.progress.items():
            histogram = spread.of(progress)
            family.add_metric([consumer], histogram.buckets(), histogram.sum)
        return family

    def _buried(self) -> Metric:
        family = CounterMetricFamily(_full("buried"), "Dead letters.", labels=["consumer", "kind"])
        for consumer, progress in self._service.progress.items():
            for kind in _KINDS:
                family.add_metric([consumer, kind], progress.dead_letters_by_kind[kind])
        return family

    def _of_sinks(self, name: str, description: str) -> Metric:
        """Return the counter that the sinks keep as attribute *name*."""
        family = CounterMetricFamily(_full(name), description, labels=["consumer"])
        for channel in self._service.channels:
            count = getattr(channel.sink, name, None)
            if isinstance(count, int):
                family.add_metric([channel.consumer.name], count)
        return family

    def _lags(self) -> Iterator[Metric]:
        in_flight = GaugeMetricFamily(_full("in_hand"), "Messages received and not acknowledged.", labels=["consumer"])
        events = GaugeMetricFamily(
            _full("lag_events"), "Messages not acknowledged, received or not.", labels=["consumer"]
        )
        seconds = GaugeMetricFamily(
            _full("lag_seconds"), "Age of the oldest message not acknowledged.", labels=["consumer"]
        )
        for projector in self._service.projectors:
            name, progress, messages = projector.consumer.name, projector.progress, projector.in_flight
            in_flight.add_metric([name], messages)
            events.add_metric([name], projector.unsettled)
            lag = progress.lag_seconds(oldest_ns=projector.oldest_ns, now_ns=time.time_ns())
            seconds.add_metric([name], lag)
        return iter((in_flight, events, seconds))

    def _holding(self) -> Metric:
        family = GaugeMetricFamily(
            _full("holding"), "1 while the projector waits for the part.", labels=["consumer", "part"]
        )
        for projector in self._service.projectors:
            for part in PARTS:
                family.add_metric([projector.consumer.name, part], projector.progress.holding == part)
        return family

    def _states(self) -> Iterator[Metric]:
        alive = GaugeMetricFamily(_full("alive"), "0 if the projector is stalled.", labels=["consumer"])
        ready = GaugeMetricFamily(_full("ready"), "1 if the projector is ready.", labels=["consumer"])
        for name, health in self._service.report().projectors.items():
            alive.add_metric([name], health.alive)
            ready.add_metric([name], health.ready)
        pinned = GaugeMetricFamily(
            _full("pinned"), "0 while the server delivers to another replica.", labels=["consumer"]
        )
        for projector in self._service.projectors:
            pinned.add_metric([projector.consumer.name], projector.puller.is_served)
        paused = GaugeMetricFamily(
            _full("paused"), "1 while the consumer is paused by an operator.", labels=["consumer"]
        )
        for projector in self._service.projectors:
            paused.add_metric([projector.consumer.name], projector.puller.pause > 0)
        return iter((alive, ready, pinned, paused))

    def _process(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(_full("connected"), "1 while connected to NATS.", self._service.report().connected)
        yield CounterMetricFamily(
            _full("stream_identity_changes"),
            "Times the stream was recreated, or lost its end.",
            self._service.stream_monitor.identity_changes,
        )
        yield InfoMetricFamily(_full("build"), "Version of the software.", {"version": version("noetl-events")})


def _full(name: str) -> str:
    return f"noetl_projector_{name}"
