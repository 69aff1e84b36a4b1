"""One scrape: every process and stream is asked over NATS, and what they say is written for Prometheus.

Processes have no ports of their own: one address tells of the whole stack, of one that runs on several hosts too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder

from bus.connection import Connection
from bus.errors import BusError
from bus.numbers import Backlog, ProcessNumbers, backlog, numbers_of_all
from infra.metrics.conventions import client_metrics, server_metrics
from infra.metrics.engines import engine_metrics
from infra.metrics.stack import backlog_metrics, stack_metrics

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scrape:
    """Answers `GET /metrics`."""

    connection: Connection
    slots: Sequence[str]
    """Processes that should answer."""
    shards: int

    async def __call__(self, accept: str) -> tuple[bytes, str]:
        """Give the metrics and their content type, as the client accepts it.

        Raises:
            Unavailable: the connection is closed.
        """
        processes = await numbers_of_all(self.connection, self.slots)
        waiting = None
        try:
            waiting = await backlog(self.connection, self.shards)
        except (BusError, TimeoutError) as error:
            log.warning("metrics without the streams: %s", error)
        return written(processes, waiting, self.slots, accept)


def written(
    processes: Sequence[ProcessNumbers], waiting: Backlog | None, slots: Sequence[str], accept: str
) -> tuple[bytes, str]:
    """Write what was gathered. Pure."""
    registry = CollectorRegistry()
    registry.register(_Gathered(processes, waiting, slots))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Gathered:
    """Gives what was gathered, each family once, whichever processes tell of it."""

    def __init__(self, processes: Sequence[ProcessNumbers], waiting: Backlog | None, slots: Sequence[str]) -> None:
        self._processes = processes
        self._waiting = waiting
        self._slots = slots

    def collect(self) -> Iterator[Metric]:
        """Give all metrics."""
        families: dict[str, Metric] = {}
        for metric in self._all():
            found = families.setdefault(metric.name, metric)
            if found is not metric:
                found.samples.extend(metric.samples)
        yield from families.values()

    def _all(self) -> Iterator[Metric]:
        for process in self._processes:
            if process.role == "scheduler":
                yield from engine_metrics(process.numbers)
                yield from server_metrics(process.numbers)
        yield from client_metrics(self._processes)
        yield from stack_metrics(self._processes, self._slots)
        if self._waiting is not None:
            yield from backlog_metrics(self._waiting)
