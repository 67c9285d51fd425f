# SPDX-License-Identifier: Apache-2.0
"""The numbers of /metrics, in their own registry. Built by the composition root.

Labels are tools, methods, outcomes and states, which are few and fixed by the server: never an
owner, an id or a client's text. Gauges are read at every scrape.
"""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from waggle.domain.environment import State
from waggle.domain.guest_agent import GuestTotals
from waggle.domain.network.traffic import Traffic
from waggle.domain.observer import CALL_TOOL, Call, Egress, Observer

_CALL_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_CREATE_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 120)


class Metrics(Observer, Collector):
    """The observer that counts events and answers a scrape, and the collector of its gauges."""

    def __init__(
        self,
        states: Callable[[], Iterable[State]],
        capacity: int,
        warm: Callable[[], Mapping[str, int]] = dict[str, int],
        traffic: Traffic | None = None,
        guests: Callable[[], GuestTotals] = GuestTotals,
    ) -> None:
        """`states` returns the state of every live environment now.

        `warm` returns the number of warm machines of each runtime. `traffic` is that of all
        environments; it is read at a scrape, as is what `guests` returns.
        """
        self._guests = guests
        self._traffic = Traffic() if traffic is None else traffic
        self._registry = CollectorRegistry()
        self._known: dict[tuple[str, str, str], tuple[Counter, Histogram]] = {}
        """Counters by label values, which are few; the library looks them up under a lock."""
        self._states = states
        self._capacity = capacity
        self._warm = warm
        self._sessions = 0
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        registry = self._registry
        self._calls = Counter(
            "waggle_tool_calls", "Tool calls.", ("tool", "outcome"), registry=registry
        )
        self._seconds = Histogram(
            "waggle_tool_call_seconds",
            "How long tool calls took.",
            ("tool",),
            registry=registry,
            buckets=_CALL_SECONDS,
        )
        self._requests = Counter(
            "waggle_resource_requests",
            "Requests for resources and prompts.",
            ("method", "outcome"),
            registry=registry,
        )
        self._request_seconds = Histogram(
            "waggle_resource_request_seconds",
            "How long these requests took; a stream of changes until it was closed.",
            ("method",),
            registry=registry,
            buckets=_CALL_SECONDS,
        )
        self._created = Histogram(
            "waggle_environment_create_seconds",
            "How long creates took that ended in a running environment.",
            registry=registry,
            buckets=_CREATE_SECONDS,
        )
        self._failed = Counter(
            "waggle_environment_create_failures", "Failed creates.", ("code",), registry=registry
        )
        self._reaped = Counter(
            "waggle_environments_reaped", "Environments removed unused.", registry=registry
        )
        self._denied = Counter(
            "waggle_egress_denied", "Connections kept from guests.", ("why",), registry=registry
        )

    def scrape(self, sessions: int) -> tuple[bytes, str]:
        """Return the page and its content type, given the number of sessions."""
        self._sessions = sessions
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    def call_ended(self, call: Call) -> None:
        """Count the call."""
        key = (call.method, call.tool, call.outcome)
        counted = self._known.get(key)
        if counted is None:
            counted = self._known[key] = self._children(call)
        counter, seconds = counted
        counter.inc()
        seconds.observe(call.seconds)

    def _children(self, call: Call) -> tuple[Counter, Histogram]:
        """Return the counter and the histogram of calls like this one."""
        if call.method == CALL_TOOL:
            return self._calls.labels(call.tool, call.outcome), self._seconds.labels(call.tool)
        return (
            self._requests.labels(call.method, call.outcome),
            self._request_seconds.labels(call.method),
        )

    def environment_created(self, seconds: float) -> None:
        """Count the create and its duration."""
        self._created.observe(seconds)

    def create_failed(self, code: str) -> None:
        """Count the failure by its code."""
        self._failed.labels(code).inc()

    def environment_reaped(self) -> None:
        """Count the reaped environment."""
        self._reaped.inc()

    def connection_ended(self, egress: Egress) -> None:
        """Count a denied connection by its reason; the others are in the traffic."""
        if not egress.decision.is_allowed:
            self._denied.labels(egress.decision.code).inc()

    def collect(self) -> Iterator[Metric]:
        """Yield the values that are read at a scrape."""
        count = Count(self._states())
        environments = GaugeMetricFamily(
            "waggle_environments", "Environments by state.", labels=("state",)
        )
        for state in State:
            if state is not State.DESTROYED:
                environments.add_metric((state.value,), count[state])
        yield environments
        yield GaugeMetricFamily(
            "waggle_environments_max", "Environments that may exist at once.", value=self._capacity
        )
        warm = GaugeMetricFamily(
            "waggle_warm_machines", "Machines that wait for their use.", labels=("runtime",)
        )
        for runtime, number in self._warm().items():
            warm.add_metric((runtime,), number)
        yield warm
        yield from self._network()
        yield from self._said()
        yield GaugeMetricFamily("waggle_sessions", "Open MCP sessions.", value=self._sessions)

    def _said(self) -> Iterator[Metric]:
        """Yield what guests say of themselves, which may be wrong, summed up over all of them."""
        said = self._guests()
        agents = GaugeMetricFamily(
            "waggle_guest_agents", "Agents of running guests by state.", labels=("state",)
        )
        agents.add_metric(("answering",), said.answering)
        agents.add_metric(("lost",), said.lost)
        yield agents
        memory = GaugeMetricFamily(
            "waggle_guest_memory_bytes", "Memory of guests, as they say.", labels=("kind",)
        )
        memory.add_metric(("total",), said.memory_total)
        memory.add_metric(("available",), said.memory_available)
        yield memory
        for name, text, value in (
            ("processes", "Processes of guests, as they say.", said.processes),
            ("load", "Load averages of guests of one minute, as they say.", said.load),
            ("memory_stalled", "Guests whose programs wait for memory.", said.stalled),
        ):
            yield GaugeMetricFamily(f"waggle_guest_{name}", text, value=value)

    def _network(self) -> Iterator[Metric]:
        traffic = self._traffic
        exchanged = CounterMetricFamily(
            "waggle_egress_bytes", "Bytes of guests and servers.", labels=("direction",)
        )
        exchanged.add_metric(("to_guest",), traffic.to_guest)
        exchanged.add_metric(("to_internet",), traffic.to_internet)
        yield exchanged
        yield CounterMetricFamily(
            "waggle_egress_connections", "Connections of guests.", value=traffic.connections
        )
        yield CounterMetricFamily(
            "waggle_egress_refused", "Requests answered by the proxy.", value=traffic.refused
        )
        yield GaugeMetricFamily(
            "waggle_egress_open", "Connections of guests now.", value=traffic.open
        )
