"""The demo as its users meet it: a process, real HTTP, a real Prometheus, real signals."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

SUMS = {
    "acked": 'sum(actorbus_acked_deliveries_total{bus="demo"})',
    "dead": 'sum(actorbus_dead_deliveries_total{bus="demo"})',
    "restarted": 'sum(actorbus_restarts_total{bus="demo"})',
    "retried": 'sum(actorbus_retries_total{bus="demo"})',
    "events_published": 'sum(actorbus_published_events_total{bus="demo"})',
}
SEED_TOPICS = {
    "task_manager:task_created",
    "task_manager:task_completed",
    "user:registered",
    "user:login",
    "subscription:updated",
    "plugin_executed",
    "calendar:event_created",
}


class Demo:
    """A running demo and a client for it."""

    def __init__(self, process: subprocess.Popen[str], client: httpx.Client) -> None:
        self.process = process
        self.client = client

    def post(self, path: str, **body: Any) -> Any:
        answer = self.client.post(path, json=body)
        assert answer.is_success, answer.text
        return answer.json()

    def complete(self, title: str, user: str = "ada") -> None:
        """Create a task of this title and complete it."""
        task = self.post("/tasks", user_id=user, title=title)["task_id"]
        self.post(f"/tasks/{task}/complete")

    def stats(self) -> Any:
        return self.client.get("/stats").json()

    def settled(self) -> Any:
        """Wait until nothing is pending and return the books."""
        return until(self.stats, lambda s: sum_pending(s) == 0)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Wait for the end and return the exit code and what was printed."""
        output, _ = self.process.communicate(timeout=45)
        return self.process.returncode, output


@contextmanager
def running(*arguments: str) -> Iterator[Demo]:
    """Start the demo on a free port and end it, by its process id, whatever happens."""
    command = [sys.executable, "-m", "actorbus", "demo", "--port", "0", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", first)
        assert found, first + process.stdout.read()
        with httpx.Client(base_url=found[0], timeout=20) as client:
            yield Demo(process, client)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def demo() -> Iterator[Demo]:
    """Run a demo without traffic of its own."""
    with running("--rate", "0") as demo:
        yield demo


def until(read: Callable[[], Any], good: Callable[[Any], object], seconds: float = 30) -> Any:
    """Poll until the answer is good; fail with the last one."""
    deadline = time.monotonic() + seconds
    while not good(answer := read()):
        assert time.monotonic() < deadline, answer
        time.sleep(0.05)
    return answer


def sum_pending(stats: Any) -> int:
    terms = stats["audit"]["totals"]
    return sum(terms[name] for name in ("waiting", "queued", "running", "retrying"))


def tool(name: str) -> str:
    """Return the path of a program; without it the test is skipped, but not where CI is set."""
    path = shutil.which(name)
    if path is None and not os.environ.get("CI"):
        pytest.skip(f"{name} is not installed")
    assert path is not None, f"{name} is not installed"
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def audit_of(output: str) -> dict[str, int]:
    """Return the terms of the audit line, which must say that the books balance."""
    (line,) = [line for line in output.splitlines() if line.startswith("audit ")]
    assert line.startswith("audit balanced: ")
    terms = {name: int(number) for number, name in re.findall(r"(\d+) (\w+)", line)}
    assert terms["routed"] == sum(terms.values()) - terms["routed"]
    return terms


# -- what it answers


def test_the_scenario_works_over_http(demo: Demo) -> None:
    """Tasks, users and appointments are accepted, and every plugin does its part."""
    task = demo.post("/tasks", user_id="ada", title="Write")["task_id"]
    assert demo.client.post(f"/tasks/{task}/complete").status_code == 200
    assert demo.client.post(f"/tasks/{task}/complete").status_code == 200
    assert demo.client.post("/tasks/none/complete").status_code == 404
    user = {"user_id": "grace", "email": "grace@example.com"}
    assert demo.client.post("/users", json=user).status_code == 201
    entry = {"user_id": "grace", "event_id": "e1", "date": "2025-10-20"}
    assert demo.client.post("/calendar", json=entry).status_code == 201

    stats = demo.settled()

    assert stats["events_by_type"] == {
        "task_manager:task_created": 2,  # the second by the calendar plugin
        "task_manager:task_completed": 1,
        "user:registered": 1,
        "calendar:event_created": 1,
    }
    assert stats["events_published"] == 5
    assert stats["events_delivered"] == stats["acked"]
    assert stats["delivery_failures"] == stats["dead"] == 0
    assert stats["audit"]["balanced"] is True
    acked = {name: row["acked"] for name, row in stats["by_subscription"].items()}
    assert (
        acked.items()
        >= {
            "notifications": 3,
            "analytics.tasks": 3,
            "analytics.everything": 5,
            "calendar_to_task": 1,
            "mailer": 1,
            "webhooks": 1,
        }.items()
    )
    assert demo.client.get("/users/ada").json() == {"user_id": "ada", "open": 0, "completed": 1}
    assert demo.client.get("/users/grace").json() == {"user_id": "grace", "open": 1, "completed": 0}
    assert demo.client.get("/users/nobody").status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "why"),
    [
        ("/tasks", b"", "JSON"),
        ("/tasks", b"{", "JSON"),
        ("/tasks", b"\xff\xfe", "JSON"),
        ("/tasks", b"[]", "object"),
        ("/tasks", b'{"user_id": "ada"}', "title"),
        ("/tasks", b'{"user_id": "ada", "title": 7}', "$.title"),
        ("/tasks", b'{"user_id": "", "title": "x"}', "$.user_id"),
        ("/tasks", b'{"user_id": "ada", "title": "' + b"x" * 70_000 + b'"}', "larger"),
        ("/users", b'{"user_id": "ada", "email": "nowhere"}', "$.email"),
        ("/calendar", b'{"user_id": "ada", "event_id": "e", "date": "someday"}', "$.date"),
    ],
)
def test_bad_bodies_are_refused(path: str, body: bytes, why: str, idle: Demo) -> None:
    """A body that does not fit is a 4xx that says why, and publishes nothing."""
    answer = idle.client.post(path, content=body)

    assert 400 <= answer.status_code < 500
    assert why in answer.json()["error"]
    assert idle.stats()["events_published"] == 0


@pytest.fixture(scope="module")
def idle() -> Iterator[Demo]:
    """Run one demo for all the tests that publish nothing."""
    with running("--rate", "0") as demo:
        yield demo


def test_the_index_page_links_everything(idle: Demo) -> None:
    """The page needs nothing from elsewhere, and every link on it works."""
    answer = idle.client.get("/")

    assert answer.headers["content-type"].startswith("text/html")
    assert "src=" not in answer.text
    links = set(re.findall(r'<a href="([^"]+)"', answer.text))
    assert {"stats", "metrics", "dead-letters"} <= links
    assert {idle.client.get(f"/{link}").status_code for link in links} <= {200, 404}
    assert "curl -d" in answer.text


def test_metrics_pass_promtool(idle: Demo) -> None:
    """`promtool check metrics` accepts what the demo exports."""
    text = idle.client.get("/metrics").content

    check = subprocess.run([tool("promtool"), "check", "metrics"], input=text, capture_output=True)

    assert (check.returncode, check.stdout, check.stderr) == (0, b"", b"")


def test_failures_end_as_dead_letters(demo: Demo) -> None:
    """A flaky delivery is retried and handled, a broken one is dead and restarts its actor."""
    demo.complete("flaky")
    demo.complete("broken")

    stats = until(demo.stats, lambda s: s["restarted"] == 1 and sum_pending(s) == 0)

    assert stats["dead"] == stats["delivery_failures"] == 1
    assert stats["retried"] == 4
    (letter,) = demo.client.get("/dead-letters").json()
    assert letter["subscription"] == "webhooks"
    assert letter["topic"] == "task_manager:task_completed"
    assert letter["reason"] == "retries_exhausted"
    assert letter["attempts"] == 3
    assert letter["error"] == "ConnectionError"
    assert "ada" not in str(letter)
    demo.complete("fine")
    assert demo.settled()["dead"] == 1


# -- what Prometheus sees


def test_prometheus_counts_what_the_demo_counts(demo: Demo, tmp_path: Path) -> None:
    """The sums Prometheus answers with equal the demo's own books."""
    with prometheus(demo, tmp_path) as query:
        for number in range(20):
            demo.complete("broken" if number % 10 == 3 else f"task {number}", f"user{number % 3}")
        demo.post("/users", user_id="ada", email="ada@example.com")
        demo.post("/calendar", user_id="ada", event_id="e1", date="2025-10-20")
        stats = until(demo.stats, lambda s: s["restarted"] == 2 and sum_pending(s) == 0)

        until(lambda: query(SUMS["acked"]), lambda acked: acked == stats["acked"])

        seen = {name: query(expression) for name, expression in SUMS.items()}
        assert seen == {name: stats[name] for name in SUMS}
        assert seen["dead"] == 2
        for name in ("webhooks", "board", "analytics.everything"):
            one = f'actorbus_acked_deliveries_total{{subscription="{name}"}}'
            assert query(one) == stats["by_subscription"][name]["acked"]
        assert query("sum(actorbus_pending_deliveries)") == 0
        assert query("min(actorbus_actor_up)") == 1


@contextmanager
def prometheus(demo: Demo, home: Path) -> Iterator[Callable[[str], float]]:
    """Run Prometheus on the demo, scraping every second, and return a function that asks it."""
    port = free_port()
    config = home / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s}\n"
        "scrape_configs:\n"
        "  - job_name: demo\n"
        f"    static_configs: [{{targets: ['127.0.0.1:{demo.client.base_url.port}']}}]\n"
    )
    command = [
        tool("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={home / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:

            def ready() -> bool:
                assert process.poll() is None, (home / "log").read_text()
                try:
                    return client.get("/-/ready").is_success
                except httpx.TransportError:
                    return False

            def query(expression: str) -> float:
                answer = client.get("/api/v1/query", params={"query": expression}).json()
                result = answer["data"]["result"]
                return float(result[0]["value"][1]) if result else -1

            until(ready, bool)
            until(lambda: query("up"), lambda up: up == 1)
            yield query
    finally:
        process.kill()
        process.wait()


# -- how it lives and ends


def test_traffic_covers_the_seed(tmp_path: Path) -> None:
    """The built-in traffic publishes every topic of the scenario, and stops by itself."""
    with running("--rate", "200", "--seconds", "3") as demo:
        stats = until(demo.stats, lambda s: s["events_by_type"].keys() >= SEED_TOPICS)
        until(demo.stats, lambda s: s["events_published"] > stats["events_published"])
        until(demo.stats, lambda s: s["retried"] and s["dead"] and s["restarted"])
        code, output = demo.end()

    assert code == 0, output
    terms = audit_of(output)
    assert terms["routed"] == terms["acked"] + terms["dead"]
    assert re.search(r"drained in .*; complete", output)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(demo: Demo, number: int) -> None:
    """Work in flight is finished: every accepted delivery is in the last audit, settled."""
    for _ in range(5):
        demo.complete("slow")
    stats = demo.stats()
    assert sum_pending(stats) > 0

    demo.signal(number)
    code, output = demo.end()

    assert code == 0, output
    terms = audit_of(output)
    assert terms["acked"] == terms["routed"] == stats["audit"]["totals"]["routed"]
    assert "Traceback" not in output


def test_requests_in_hand_finish(demo: Demo) -> None:
    """A request that was begun before the signal is answered, and its event is delivered."""
    body = b'{"user_id": "ada", "title": "late"}'
    url = demo.client.base_url
    with socket.create_connection((url.host, url.port or 0), timeout=20) as connection:
        connection.sendall(
            b"POST /tasks HTTP/1.1\r\nHost: demo\r\nExpect: 100-continue\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body)
        )
        assert b"100 Continue" in connection.recv(1000)  # the application reads the body now

        demo.signal(signal.SIGTERM)
        until(lambda: _refuses(url), bool)
        connection.sendall(body)
        answer = connection.recv(10_000)
    code, output = demo.end()

    assert b" 201 " in answer.splitlines()[0]
    assert code == 0, output
    terms = audit_of(output)
    assert terms["acked"] == terms["routed"] > 0


def _refuses(url: httpx.URL) -> bool:
    try:
        socket.create_connection((url.host, url.port or 0), timeout=1).close()
    except OSError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(demo: Demo, number: int) -> None:
    """Who does not want to wait says so twice."""
    for _ in range(40):
        demo.complete("slow")
    demo.signal(number)
    until(lambda: _refuses(demo.client.base_url), bool)

    demo.signal(number)
    code, output = demo.end()

    assert code == 128 + number
    assert "audit" not in output


def test_a_taken_port_is_one_line(idle: Demo) -> None:
    """No traceback, exit code 2."""
    command = [sys.executable, "-m", "actorbus", "demo", "--port", str(idle.client.base_url.port)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("actorbus: cannot listen on 127.0.0.1:")
    assert result.stderr.count("\n") == 1
