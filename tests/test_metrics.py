"""The exporter against a fake bus: names, labels, zeroes, sums, and the two ways to serve them."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import subprocess
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx
import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Gauge, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_text
from starlette.applications import Starlette

from actorbus import EventBus, RetryPolicy, looking, metrics
from actorbus.ledger import BUCKETS, SIZES, Histogram, Ledger, Terms
from actorbus.metrics import families
from actorbus.rows import ActorReading, BusReading, JournalReading
from actorbus.words import DeadReason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Labels = dict[str, str]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

TABLE = {
    "actorbus_published_events": ("counter", {"bus", "topic"}),
    "actorbus_unrouted_events": ("counter", {"bus"}),
    "actorbus_routed_deliveries": ("counter", {"bus", "subscription"}),
    "actorbus_acked_deliveries": ("counter", {"bus", "subscription"}),
    "actorbus_conflated_deliveries": ("counter", {"bus", "subscription"}),
    "actorbus_dead_deliveries": ("counter", {"bus", "subscription", "reason"}),
    "actorbus_pending_deliveries": ("gauge", {"bus", "subscription", "state"}),
    "actorbus_attempts": ("counter", {"bus", "subscription", "outcome"}),
    "actorbus_retries": ("counter", {"bus", "subscription"}),
    "actorbus_restarts": ("counter", {"bus", "subscription"}),
    "actorbus_actor_up": ("gauge", {"bus", "subscription"}),
    "actorbus_mailbox_capacity": ("gauge", {"bus", "subscription"}),
    "actorbus_mailbox_wait_seconds": ("histogram", {"bus", "subscription"}),
    "actorbus_handler_duration_seconds": ("histogram", {"bus", "subscription"}),
    "actorbus_publish_blocked_seconds": ("counter", {"bus"}),
    "actorbus_dead_letters_held": ("gauge", {"bus"}),
    "actorbus_event_loop_lag_seconds": ("histogram", {"bus"}),
    "actorbus_build_info": ("gauge", {"version", "python"}),
}

OF_JOURNALS = {
    "actorbus_journal_commit_seconds": ("histogram", {"bus"}),
    "actorbus_journal_commit_operations": ("histogram", {"bus"}),
    "actorbus_journal_uncommitted_events": ("gauge", {"bus"}),
    "actorbus_journal_events": ("gauge", {"bus"}),
    "actorbus_journal_dead_letters": ("gauge", {"bus"}),
    "actorbus_journal_bytes": ("gauge", {"bus"}),
    "actorbus_journal_limit_bytes": ("gauge", {"bus"}),
    "actorbus_journal_lag": ("gauge", {"bus", "subscription"}),
    "actorbus_journal_oldest_unacked_seconds": ("gauge", {"bus", "subscription"}),
}
"""What a bus with a journal has beside those."""


class FakeBus:
    """A bus as the exporter sees it, remembering on which threads it was read."""

    def __init__(self, name: str = "shop") -> None:
        self.name = name
        self.rows: list[ActorReading] = []
        self.answer = BusReading(name, actors=self.rows)
        self.sampling = 0
        self.threads: list[threading.Thread] = []

    def reading(self) -> BusReading:
        self.threads.append(threading.current_thread())
        return self.answer

    def sample_loop_lag(self) -> None:
        self.sampling += 1

    def actor(self, label: str, *, up: bool | None = True, capacity: int = 0) -> Ledger:
        """Add a row and return its ledger, to be filled in."""
        row = ActorReading(label, Ledger(), Terms(), up, capacity)
        self.rows.append(row)
        return row.ledger

    def keep(self, **durables: tuple[int, float]) -> FakeBus:
        """Give it a journal, and subscriptions with a lag and an age in it."""
        seconds = (0,) * 3 + (4, 1) + (0,) * (len(BUCKETS) - 4)
        sizes = (1, 0, 2) + (0,) * (len(SIZES) - 3) + (2,)
        journal = JournalReading(
            (*seconds, 0.0125), (*sizes, 7_000), 5, 40, 6, 7_000_000, 1_000_000_000.0
        )
        self.answer.journal, self.answer.durables = journal, durables
        return self


def scrape(registry: CollectorRegistry) -> Samples:
    """Return every sample of the text format; a duplicate fails the test."""
    found: Samples = {}
    for family in parse_text(generate_latest(registry).decode()):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found
            found[key] = sample.value
    return found


def export(*buses: FakeBus) -> Samples:
    registry = CollectorRegistry()
    for bus in buses:
        metrics.register(bus, registry)
    return scrape(registry)


def at(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def labels_of(samples: Samples, name: str) -> list[Labels]:
    return [dict(labels) for found, labels in samples if found == name]


@pytest.fixture
def anyio_backend() -> str:
    """Run on a real loop: rendering happens in a real thread."""
    return "asyncio"


@pytest.fixture
def bus() -> FakeBus:
    """Return a bus with one busy actor and one that has done nothing yet."""
    bus = FakeBus()
    bus.answer.published = {"order:placed": 7, "_other": 2}
    bus.answer.unrouted = 3
    bus.answer.blocked_seconds = 1.5
    bus.answer.dead_letters_held = 4
    bus.answer.loop_lag = Histogram()
    bus.answer.loop_lag.add(0.002)
    busy = bus.actor("billing", capacity=1000)
    busy.routed, busy.acked, busy.conflated = 20, 12, 1
    busy.succeeded, busy.errors, busy.timeouts, busy.cancelled = 12, 5, 2, 1
    busy.retries, busy.restarts = 6, 2
    busy.dead = {DeadReason.REJECTED: 1, DeadReason.RETRIES_EXHAUSTED: 2}
    for seconds in (0.00005, 0.003, 0.2, 100.0):
        busy.waited(seconds)
        busy.took(seconds / 10)
    bus.answer.actors[0].terms = Terms(waiting=1, queued=2, running=0, retrying=1)
    bus.actor("idle", up=False, capacity=10)
    return bus


def test_families_are_those_of_the_table(bus: FakeBus) -> None:
    """Every family has its name, type, help and labels, and there is no other."""
    registry = CollectorRegistry()
    collector = metrics.register(bus, registry)

    families = list(collector.collect())

    assert {f.name: f.type for f in families} == {n: kind for n, (kind, _) in TABLE.items()}
    assert all(f.documentation for f in families)
    for family in families:
        labels = {frozenset(sample.labels.keys() - {"le"}) for sample in family.samples}
        assert labels == {frozenset(TABLE[family.name][1])}


def test_values_come_from_the_reading(bus: FakeBus) -> None:
    """Each sample shows the integer it stands for."""
    samples = export(bus)

    assert at(samples, "actorbus_published_events_total", bus="shop", topic="order:placed") == 7
    assert at(samples, "actorbus_published_events_total", bus="shop", topic="_other") == 2
    assert at(samples, "actorbus_unrouted_events_total", bus="shop") == 3
    assert at(samples, "actorbus_publish_blocked_seconds_total", bus="shop") == 1.5
    assert at(samples, "actorbus_dead_letters_held", bus="shop") == 4
    of = {"bus": "shop", "subscription": "billing"}
    assert at(samples, "actorbus_routed_deliveries_total", **of) == 20
    assert at(samples, "actorbus_acked_deliveries_total", **of) == 12
    assert at(samples, "actorbus_conflated_deliveries_total", **of) == 1
    assert at(samples, "actorbus_retries_total", **of) == 6
    assert at(samples, "actorbus_restarts_total", **of) == 2
    assert at(samples, "actorbus_mailbox_capacity", **of) == 1000
    assert at(samples, "actorbus_actor_up", **of) == 1
    assert at(samples, "actorbus_actor_up", bus="shop", subscription="idle") == 0
    assert at(samples, "actorbus_dead_deliveries_total", **of, reason="rejected") == 1
    assert at(samples, "actorbus_dead_deliveries_total", **of, reason="retries_exhausted") == 2
    states = {"waiting": 1, "queued": 2, "running": 0, "retrying": 1}
    for state, count in states.items():
        assert at(samples, "actorbus_pending_deliveries", **of, state=state) == count
    outcomes = {"ok": 12, "error": 5, "timeout": 2, "cancelled": 1}
    for outcome, count in outcomes.items():
        assert at(samples, "actorbus_attempts_total", **of, outcome=outcome) == count


def test_label_sets_exist_at_zero(bus: FakeBus) -> None:
    """An actor that has done nothing has all its series, each at 0."""
    samples = export(bus)

    idle = {name: v for (name, labels), v in samples.items() if ("subscription", "idle") in labels}
    assert set(idle.values()) - {idle["actorbus_mailbox_capacity"]} == {0}
    for name, key, values in (
        ("actorbus_dead_deliveries_total", "reason", set(DeadReason)),
        ("actorbus_attempts_total", "outcome", {"ok", "error", "timeout", "cancelled"}),
        ("actorbus_pending_deliveries", "state", {"waiting", "queued", "running", "retrying"}),
    ):
        sets = labels_of(samples, name)
        assert {labels[key] for labels in sets if labels["subscription"] == "idle"} == values


def test_a_bus_with_a_journal_has_more_families(bus: FakeBus) -> None:
    """Each has its name, type, help and labels; a bus beside it without a journal has no part."""
    registry = CollectorRegistry()
    metrics.register(FakeBus("plain"), registry)
    collector = metrics.register(bus.keep(billing=(3, 1.5)), registry)

    found = list(collector.collect())

    table = {**TABLE, **OF_JOURNALS}
    assert {f.name: f.type for f in found} == {n: kind for n, (kind, _) in table.items()}
    assert all(f.documentation for f in found)
    for family in found:
        labels = {frozenset(sample.labels.keys() - {"le"}) for sample in family.samples}
        assert labels == {frozenset(table[family.name][1])}
        if family.name in OF_JOURNALS:
            assert {sample.labels["bus"] for sample in family.samples} == {"shop"}


def test_values_of_a_journal_come_from_the_reading(bus: FakeBus) -> None:
    """Each sample shows the number it stands for; buckets count what lies below their bound."""
    samples = export(bus.keep(billing=(3, 1.5), _ended=(0, 0.0)))

    gauges = {"uncommitted_events": 5, "events": 40, "dead_letters": 6, "bytes": 7_000_000,
              "limit_bytes": 1_000_000_000}  # fmt: skip
    for name, value in gauges.items():
        assert at(samples, f"actorbus_journal_{name}", bus="shop") == value
    for label, lag, age in (("billing", 3, 1.5), ("_ended", 0, 0)):
        of = {"bus": "shop", "subscription": label}
        assert at(samples, "actorbus_journal_lag", **of) == lag
        assert at(samples, "actorbus_journal_oldest_unacked_seconds", **of) == age
    name = "actorbus_journal_commit_seconds"
    bounds = [*map(str, BUCKETS), "+Inf"]
    counts = [at(samples, f"{name}_bucket", bus="shop", le=bound) for bound in bounds]
    assert counts == [0, 0, 0, 4, 5, 5, 5, 5, 5, 5, 5, 5, 5]
    assert at(samples, f"{name}_count", bus="shop") == 5
    assert at(samples, f"{name}_sum", bus="shop") == 0.0125
    name = "actorbus_journal_commit_operations"
    bounds = [*(f"{size}.0" for size in SIZES), "+Inf"]
    counts = [at(samples, f"{name}_bucket", bus="shop", le=bound) for bound in bounds]
    assert counts == [1, 1, 3, 3, 3, 3, 3, 3, 3, 3, 3, 5]
    assert at(samples, f"{name}_count", bus="shop") == 5
    assert at(samples, f"{name}_sum", bus="shop") == 7_000


def test_journals_of_buses_of_one_name_are_summed() -> None:
    """All but the age, which is that of the oldest; a bus without a journal adds nothing."""
    one = FakeBus().keep(billing=(3, 1.5), audit=(1, 9.0))
    two = FakeBus().keep(billing=(4, 0.5))
    two.answer.durables["caf\u00e9 \ud800"] = (1, 2.0)
    two.answer.durables["caf\u00e9 \ud801"] = (2, 1.0)

    samples = export(one, FakeBus(), two)

    for name, value in (("events", 80), ("limit_bytes", 2e9), ("commit_seconds_count", 10),
                        ("commit_operations_sum", 14_000)):  # fmt: skip
        assert at(samples, f"actorbus_journal_{name}", bus="shop") == value
    rows = {"billing": (7, 1.5), "audit": (1, 9.0), "caf\u00e9 ?": (3, 2.0)}
    for label, (lag, age) in rows.items():
        of = {"bus": "shop", "subscription": label}
        assert at(samples, "actorbus_journal_lag", **of) == lag
        assert at(samples, "actorbus_journal_oldest_unacked_seconds", **of) == age


def test_histograms_are_cumulative(bus: FakeBus) -> None:
    """Buckets count what lies below their bound; the last one equals the count."""
    samples = export(bus)

    of = {"bus": "shop", "subscription": "billing"}
    bounds = [*map(str, BUCKETS), "+Inf"]
    counts = [at(samples, "actorbus_mailbox_wait_seconds_bucket", **of, le=b) for b in bounds]
    assert counts == [1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 4]
    assert at(samples, "actorbus_mailbox_wait_seconds_count", **of) == 4
    assert at(samples, "actorbus_mailbox_wait_seconds_sum", **of) == pytest.approx(100.20305)
    assert at(samples, "actorbus_event_loop_lag_seconds_bucket", bus="shop", le="0.005") == 1
    empty = {"bus": "shop", "subscription": "idle"}
    assert at(samples, "actorbus_handler_duration_seconds_bucket", **empty, le="+Inf") == 0
    assert at(samples, "actorbus_handler_duration_seconds_sum", **empty) == 0


def test_build_info_has_no_bus() -> None:
    """What runs is said once per registry, whatever the number of buses."""
    samples = export(FakeBus("a"), FakeBus("b"))

    (labels,) = labels_of(samples, "actorbus_build_info")
    assert labels.keys() == {"version", "python"}
    assert at(samples, "actorbus_build_info", **labels) == 1


def test_the_version_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scrape walks through no installed packages, but for the first one."""
    looked: list[str] = []

    def version(name: str) -> str:
        looked.append(name)
        return "1.2.3"

    monkeypatch.setattr(families, "version", version)
    families._release.cache_clear()
    try:
        for _ in range(3):
            (labels,) = labels_of(export(FakeBus()), "actorbus_build_info")
            assert labels["version"] == "1.2.3"
    finally:
        families._release.cache_clear()

    assert looked == ["actorbus"]


def test_rows_of_one_label_are_summed() -> None:
    """Counters, pending terms, capacity and histograms add up; one broken actor shows."""
    bus = FakeBus()
    for routed, up in ((1, True), (10, False), (100, True)):
        ledger = bus.actor("_other", up=up, capacity=5)
        ledger.routed = routed
        ledger.dead = {DeadReason.STOPPED: 1}
        ledger.waited(0.2)
    bus.answer.actors[0].terms = Terms(queued=1)
    bus.answer.actors[1].terms = Terms(queued=2)

    samples = export(bus)

    of = {"bus": "shop", "subscription": "_other"}
    assert at(samples, "actorbus_routed_deliveries_total", **of) == 111
    assert at(samples, "actorbus_dead_deliveries_total", **of, reason="stopped") == 3
    assert at(samples, "actorbus_pending_deliveries", **of, state="queued") == 3
    assert at(samples, "actorbus_mailbox_capacity", **of) == 15
    assert at(samples, "actorbus_actor_up", **of) == 0
    assert at(samples, "actorbus_mailbox_wait_seconds_count", **of) == 3


def test_reading_is_left_as_it_was() -> None:
    """Summing works on copies: the next scrape of the same reading gives the same numbers."""
    bus = FakeBus()
    bus.actor("_other").routed = 1
    bus.actor("_other").routed = 2

    assert export(bus, FakeBus("shop")) == export(bus, FakeBus("shop"))


def test_rows_that_are_no_actor_are_not_up_or_down() -> None:
    """Streams and ended subscriptions have books, but neither a state nor a capacity."""
    bus = FakeBus()
    bus.actor("_streams", up=None).routed = 5
    bus.actor("_ended", up=None).routed = 6

    samples = export(bus)

    assert at(samples, "actorbus_routed_deliveries_total", bus="shop", subscription="_ended") == 6
    assert labels_of(samples, "actorbus_actor_up") == []
    assert labels_of(samples, "actorbus_mailbox_capacity") == []


def test_two_buses_share_a_registry() -> None:
    """Each family stands once and holds the samples of both."""
    one, two = FakeBus("one"), FakeBus("two")
    one.actor("handler").acked = 1
    two.actor("handler").acked = 2
    registry = CollectorRegistry()

    assert metrics.register(one, registry) is metrics.register(two, registry)

    text = generate_latest(registry).decode()
    assert text.count("# TYPE actorbus_acked_deliveries_total ") == 1
    samples = scrape(registry)
    assert at(samples, "actorbus_acked_deliveries_total", bus="one", subscription="handler") == 1
    assert at(samples, "actorbus_acked_deliveries_total", bus="two", subscription="handler") == 2


def test_buses_of_one_name_are_summed() -> None:
    """Two buses named alike make no duplicate series."""
    one, two = FakeBus(), FakeBus()
    for bus in (one, two):
        bus.actor("handler").acked = 2
        bus.answer.published = {"a": 1}
        bus.answer.unrouted = 3
        bus.answer.loop_lag = Histogram()
        bus.answer.loop_lag.add(0.2)
    two.answer.published["b"] = 0

    samples = export(one, two)

    assert at(samples, "actorbus_acked_deliveries_total", bus="shop", subscription="handler") == 4
    assert at(samples, "actorbus_published_events_total", bus="shop", topic="a") == 2
    assert at(samples, "actorbus_published_events_total", bus="shop", topic="b") == 0
    assert at(samples, "actorbus_unrouted_events_total", bus="shop") == 6
    assert at(samples, "actorbus_event_loop_lag_seconds_count", bus="shop") == 2


def test_registering_again_changes_nothing(bus: FakeBus) -> None:
    """The same bus twice in one registry counts once."""
    assert export(bus, bus) == export(bus)


def test_registering_neither_reads_nor_keeps_the_registry(bus: FakeBus) -> None:
    """A registration costs no collection, and a dropped registry is freed."""
    registry = CollectorRegistry(auto_describe=True)

    metrics.register(bus, registry)

    assert bus.threads == []
    assert bus.sampling == 1
    for name in ("actorbus_attempts", "actorbus_journal_lag"):
        with pytest.raises(ValueError, match=name):
            Gauge(name, "clashes", registry=registry)
    gone = weakref.ref(registry)
    del registry
    gc.collect()
    assert gone() is None


def test_unregistered_buses_stay_out(bus: FakeBus) -> None:
    """After the collector is taken out, registering another bus does not bring the first back."""
    registry = CollectorRegistry()
    registry.unregister(metrics.register(bus, registry))
    assert generate_latest(registry) == b""

    metrics.register(FakeBus("late"), registry)

    assert {labels["bus"] for labels in labels_of(scrape(registry), "actorbus_dead_letters_held")} \
        == {"late"}  # fmt: skip


def test_the_default_registry_is_the_process_wide_one(bus: FakeBus) -> None:
    """`register(bus)` goes where prometheus_client's own metrics are."""
    collector = metrics.register(bus)
    try:
        assert b"actorbus_build_info" in generate_latest(REGISTRY)
    finally:
        REGISTRY.unregister(collector)


def test_odd_names_do_not_cost_the_scrape() -> None:
    """Quotes, line ends and lone surrogates in a name leave the exposition readable."""
    bus = FakeBus('a"b\\c\nd')
    bus.actor("caf\u00e9 \ud800").acked = 1
    bus.actor("caf\u00e9 \ud801").acked = 1

    samples = export(bus)

    labels = {"bus": 'a"b\\c\nd', "subscription": "caf\u00e9 ?"}
    assert at(samples, "actorbus_acked_deliveries_total", **labels) == 2


def test_collecting_on_a_loop_and_off_it(bus: FakeBus) -> None:
    """The collector answers on the thread of a running loop and on any other."""
    registry = CollectorRegistry()
    metrics.register(bus, registry)

    async def both() -> tuple[bytes, bytes]:
        return generate_latest(registry), await asyncio.to_thread(generate_latest, registry)

    on, off = asyncio.run(both())

    assert on == off
    assert bus.threads[0] is threading.current_thread()
    assert bus.threads[1] is not threading.current_thread()


@pytest.mark.parametrize("count", [1, 300])
def test_promtool_accepts_the_exposition(bus: FakeBus, count: int) -> None:
    """`promtool check metrics` has nothing to say."""
    promtool = shutil.which("promtool")
    if promtool is None and not os.environ.get("CI"):
        pytest.skip("promtool is not installed")
    assert promtool is not None
    for number in range(count):
        bus.actor(f"handler {number}", capacity=1)
    registry = CollectorRegistry()
    metrics.register(bus, registry)
    metrics.register(FakeBus("durable").keep(billing=(3, 1.5)), registry)

    check = subprocess.run(
        [promtool, "check", "metrics"], input=generate_latest(registry), capture_output=True
    )

    assert (check.returncode, check.stdout, check.stderr) == (0, b"", b"")


# -- over HTTP


@pytest.fixture
async def client(bus: FakeBus) -> AsyncIterator[httpx.AsyncClient]:
    app = Starlette()
    app.add_route("/metrics", metrics.make_asgi_app(bus))  # type: ignore[arg-type]  # any ASGI app
    app.mount("/mounted", metrics.make_asgi_app(bus))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.mark.parametrize("path", ["/metrics", "/mounted/"])
async def test_the_app_answers_where_it_is_put(client: httpx.AsyncClient, path: str) -> None:
    """As a route and as a mount, GET gives the text format."""
    answer = await client.get(path, follow_redirects=False)

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "actorbus_acked_deliveries_total{" in answer.text


async def test_the_app_negotiates(client: httpx.AsyncClient) -> None:
    """OpenMetrics and gzip are given to those who ask."""
    accept = "application/openmetrics-text; version=1.0.0, text/plain;q=0.5"
    answer = await client.get("/metrics", headers={"accept": accept, "accept-encoding": "gzip"})
    plain = await client.get("/metrics", headers={"accept": accept, "accept-encoding": "identity"})

    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert answer.text == plain.text
    families = {family.name: family for family in parse_open(answer.text)}  # type: ignore[no-untyped-call]  # theirs
    assert families.keys() == TABLE.keys()
    assert families["actorbus_mailbox_wait_seconds"].unit == "seconds"


async def test_the_app_filters_by_name(client: httpx.AsyncClient) -> None:
    """`name[]` narrows the answer to the series asked for."""
    answer = await client.get("/metrics", params={"name[]": "actorbus_dead_letters_held"})

    assert {family.name for family in parse_text(answer.text)} == {"actorbus_dead_letters_held"}


async def test_head_gives_the_headers_only(client: httpx.AsyncClient) -> None:
    """HEAD says how long the body of GET is, and sends none."""
    head = await client.head("/metrics", headers={"accept-encoding": "identity"})
    whole = await client.get("/metrics", headers={"accept-encoding": "identity"})

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(whole.content))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_other_methods_are_refused(client: httpx.AsyncClient, method: str) -> None:
    """Anything but GET and HEAD is a 405 that names both, and reads nothing."""
    answer = await client.request(method, "/metrics")

    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"


async def test_reading_and_rendering_stay_off_the_loop(bus: FakeBus) -> None:
    """The application leaves its loop free: everything happens in a worker thread."""
    await _call(bus, {"type": "http", "method": "GET", "headers": []})

    assert bus.threads != [threading.current_thread()]


async def test_websockets_are_closed(bus: FakeBus) -> None:
    """A WebSocket handshake is refused in the protocol's own terms."""
    (sent,) = await _call(bus, {"type": "websocket", "headers": []})

    assert sent["type"] == "websocket.close"


async def test_lifespan_is_refused(bus: FakeBus) -> None:
    """A server that offers lifespan events learns that there are none."""
    with pytest.raises(ValueError, match="lifespan"):
        await _call(bus, {"type": "lifespan"})


async def _call(bus: FakeBus, scope: dict[str, Any]) -> list[Any]:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await metrics.make_asgi_app(bus)(scope, receive, send)
    return sent


def test_serve_listens_until_closed(bus: FakeBus) -> None:
    """Port 0 takes a free port; after close nothing listens and no thread is left."""
    before = set(threading.enumerate())
    with metrics.serve(bus, 0) as server:
        url = f"http://127.0.0.1:{server.port}/metrics"
        answer = httpx.get(url, headers={"accept-encoding": "gzip"})

    assert "actorbus_dead_letters_held" in answer.text
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
    server.close()
    assert {t for t in threading.enumerate() if t.is_alive()} <= before


def test_serve_says_that_a_port_is_taken(bus: FakeBus) -> None:
    """A second server on the same port is an OSError, not a silent failure."""
    with metrics.serve(bus, 0) as server, pytest.raises(OSError, match="in use"):
        metrics.serve(bus, server.port)


async def test_the_loop_runs_on_while_a_large_bus_is_rendered() -> None:
    """1,000 actors are rendered while the loop keeps turning."""
    bus = FakeBus()
    for number in range(1000):
        bus.actor(f"handler {number}")
    turns = 0
    done = anyio.Event()

    async def render() -> None:
        await _call(bus, {"type": "http", "method": "GET", "headers": []})
        done.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(render)
        while not done.is_set():
            turns += 1
            await anyio.lowlevel.checkpoint()

    assert turns > 100


# -- with a real bus


async def test_a_real_bus_has_its_series_from_the_start() -> None:
    """All label sets of an actor are there before its first event, on and off the loop."""
    registry = CollectorRegistry()
    async with EventBus("real") as bus:
        metrics.register(bus, registry)

        @bus.subscribe("a:*", name="handler", mailbox=7)
        async def handle(data: object) -> None: ...

        on, off = scrape(registry), await anyio.to_thread.run_sync(scrape, registry)

    of = {"bus": "real", "subscription": "handler"}
    for samples in (on, off):
        for reason in DeadReason:
            assert at(samples, "actorbus_dead_deliveries_total", **of, reason=reason) == 0
        assert at(samples, "actorbus_mailbox_wait_seconds_bucket", **of, le="+Inf") == 0
        assert at(samples, "actorbus_mailbox_capacity", **of) == 7
        assert at(samples, "actorbus_actor_up", **of) == 1


async def test_a_real_bus_is_read_after_its_close() -> None:
    """The last numbers stay readable, equal the audit, and no total has fallen."""
    registry = CollectorRegistry()
    async with EventBus("real") as bus:
        metrics.register(bus, registry)
        fine = bus.subscribe("a:*", lambda data: None, name="fine", inline=True)
        bus.subscribe("a:*", _fail, name="failing", inline=True, retry=RetryPolicy.none())
        for number in range(10):
            bus.publish("a:b", number)
        bus.publish("nobody:listens")
        await bus.settle()
        before = scrape(registry)
        fine.unsubscribe()
        await fine.ended()

    after = scrape(registry)

    def total(samples: Samples, name: str) -> float:
        return sum(value for (found, _), value in samples.items() if found == name)

    for samples in (before, after):
        assert total(samples, "actorbus_routed_deliveries_total") == bus.audit().totals.routed == 20
        assert total(samples, "actorbus_acked_deliveries_total") == bus.audit().totals.acked == 10
        assert total(samples, "actorbus_dead_deliveries_total") == bus.audit().totals.dead == 10
        assert total(samples, "actorbus_published_events_total") == 11
        assert total(samples, "actorbus_unrouted_events_total") == 1
        assert total(samples, "actorbus_dead_letters_held") == 10
        assert total(samples, "actorbus_handler_duration_seconds_count") == 20
    failing = {"bus": "real", "subscription": "failing"}
    assert at(after, "actorbus_attempts_total", **failing, outcome="error") == 10


async def test_a_real_bus_with_a_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its series exist at 0 before the start, tell what the file does, and stay after the close."""
    monkeypatch.setattr(looking, "PATIENCE", 60.0)
    registry, path = CollectorRegistry(), tmp_path / "events.db"
    bus = EventBus("real", journal=f"sqlite:///{path}?max_bytes=10000000")
    metrics.register(bus, registry)
    bus.subscribe("a:*", lambda data: None, name="fine", durable="d")
    before = scrape(registry)
    async with bus:
        await asyncio.gather(*(bus.publish("a:b", number) for number in range(10)))
        await bus.settle()
        during = await anyio.to_thread.run_sync(scrape, registry)
    after = scrape(registry)

    of = {"bus": "real", "subscription": "fine"}
    for samples in (before, during, after):
        assert at(samples, "actorbus_journal_lag", **of) == 0
        assert at(samples, "actorbus_journal_oldest_unacked_seconds", **of) == 0
        assert at(samples, "actorbus_journal_uncommitted_events", bus="real") == 0
    assert at(before, "actorbus_journal_events", bus="real") == 0
    assert at(before, "actorbus_journal_limit_bytes", bus="real") == float("inf")
    for samples in (during, after):
        assert at(samples, "actorbus_journal_events", bus="real") == 10
        assert at(samples, "actorbus_journal_limit_bytes", bus="real") == 10_000_000
        assert at(samples, "actorbus_journal_bytes", bus="real") > 0
        assert at(samples, "actorbus_journal_commit_operations_sum", bus="real") >= 12
    assert labels_of(after, "actorbus_journal_lag") == [{**of, "subscription": "_ended"}, of]


def _fail(data: object) -> None:
    raise ValueError("no")


async def test_a_real_bus_is_served() -> None:
    """The server's thread reads a bus that lives on this loop."""
    async with EventBus("real") as bus:
        bus.subscribe("a:*", lambda data: None, name="fine")
        with metrics.serve(bus, 0) as server:
            await bus.publish("a:b").settled()
            async with httpx.AsyncClient() as client:
                answer = await client.get(f"http://127.0.0.1:{server.port}/metrics")

    assert 'actorbus_acked_deliveries_total{bus="real",subscription="fine"} 1.0' in answer.text
