"""The import graph points down, as the map in the docstring of `actorbus` draws it.

The rules are checked on the source, so they hold for imports inside functions and under
``TYPE_CHECKING`` too.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import actorbus

ROOT = Path(__file__).parents[1] / "actorbus"
LONGEST = 400
"""Lines of a file at most."""

# Bottom to top. In a tuple a later module may import an earlier one; in a set nobody may.
FLOORS: tuple[set[str] | tuple[str, ...], ...] = (
    {"errors", "world"},
    (
        "checks", "words", "topic", "event", "frames", "literal", "reproduce", "ledger",
        "journal.effects",
    ),
    {
        "router", "mailbox", "rows", "history", "retry", "restart", "dead_letter", "deadline",
        "deadlock", "hand", "handler", "home", "outside", "threads", "storm", "watch",
        "journal", "journal.base",
    },
    (
        "encoding", "lag", "extra", "receipt", "backlog", "admission", "lot", "options",
        "subscription", "delivery", "workplace", "worker", "threaded", "keyed", "commits", "work",
        "executor", "scribe", "transaction", "staff", "actor", "hooks", "life", "archive", "ends",
        "lookback", "window", "retention", "gauges", "recorder", "tap", "past", "supervisor",
        "readings", "routing", "catchup", "registry", "replays", "survey", "custody", "waiting",
        "intake", "traffic", "engine", "explain", "closing", "part", "asking", "running", "looking",
        "listening", "tables", "lifecycle", "plain", "bus",
    ),
)  # fmt: skip
ENGINE = 3
WING = {"metrics", "journal"}
"""What is on no floor itself: of a package, all but what the floors name."""
ON_REQUEST = {("bus", "journal.sqlite")}
"""Who may import which wing module, inside the function that was asked for it."""
DOORS = {"streams", "testing", "cli", "__main__"}
FACE = ""

ONLY_IN = {
    "prometheus_client": {"metrics"},
    "aiostream": {"streams"},
    "starlette": {"cli"},
    "uvicorn": {"cli"},
    "typer": {"cli"},
    "rich": {"cli"},
    "hypothesis": {"testing"},
    "pytest": {"testing"},
    "pytest_asyncio": {"testing"},
    "sqlite3": {
        "journal.head", "journal.pruning", "journal.reading", "journal.room", "journal.schema",
        "journal.sqlite", "journal.store", "journal.transacting", "journal.trouble",
        "journal.writing",
    },
    "nats": set[str](),
}  # fmt: skip
"""Which modules may import what costs much, or comes with an extra."""

LIGHT = {"actorbus", "anyio", "msgspec", "exceptiongroup", "idna", "sniffio", "typing_extensions"}
"""What `import actorbus` may load beside the standard library; the last four are anyio's own."""


def name_of(path: Path) -> str:
    """Return the name of a module below actorbus; the face's is empty."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def home(module: str) -> str:
    """Return the module or package that the map names."""
    return module.partition(".")[0]


def imports(path: Path) -> set[str]:
    """Return every absolute name a file imports, modules of ours as far as they go."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            source = node.module or ""
            deep = {f"{source}.{alias.name}" for alias in node.names}
            ours = {name for name in deep if name.removeprefix("actorbus.") in MODULES}
            found |= ours or {source}
    return found


def imports_of_ours(path: Path) -> set[str]:
    """Return the modules of actorbus a file imports; the face is the empty name."""
    named = {name for name in imports(path) if home(name) == "actorbus"}
    return {name.removeprefix("actorbus").lstrip(".") for name in named}


def rank(module: str) -> tuple[int, int]:
    """Return floor and place of a module; doors are above every floor."""
    for floor, members in enumerate(FLOORS):
        if module in members:
            return floor, members.index(module) if isinstance(members, tuple) else 0
    return len(FLOORS), 0


def in_wing(module: str) -> bool:
    """Return whether a module is an adapter, which the engine knows by protocol only."""
    return home(module) in WING and rank(module)[0] == len(FLOORS)


def allowed(module: str, target: str) -> bool:
    """Return whether one module may import another."""
    if target == FACE:
        return False
    if home(module) in DOORS:
        own = home(module) == home(target) or module == "__main__"
        return own or home(target) not in DOORS
    if home(target) in DOORS:
        return False
    if in_wing(target):
        asked_for = (module, target) in ON_REQUEST
        return asked_for or (in_wing(module) and home(module) == home(target))
    if in_wing(module):
        return rank(target) < (ENGINE, 0)
    return rank(target) < rank(module)


def test_imports_point_down() -> None:
    """No module imports upwards, from a sibling room, from a door, or from the face."""
    edges = {
        (module, target)
        for module, path in MODULES.items()
        for target in imports_of_ours(path) - {module}
        if module != FACE
    }

    wrong = sorted(f"{m} -> {t or 'the face'}" for m, t in edges if not allowed(m, t))

    assert wrong == []


def test_the_face_opens_no_door() -> None:
    """The face imports from the floors only: what belongs to an extra is imported by its path."""
    above = {target for target in imports_of_ours(MODULES[FACE]) if rank(target)[0] > ENGINE}

    assert above == set()


def test_every_module_has_its_place() -> None:
    """Every module is on a floor of the test and in the map of the docstring, and no other is."""
    placed = {home(name) for floor in FLOORS for name in floor} | WING | DOORS
    real = {home(module) for module in MODULES} - {FACE}
    drawn = set(re.findall(r"\w+", (actorbus.__doc__ or "").partition("    ground ")[2]))

    assert real - placed == set()
    assert placed - real == set()
    assert real - {"__main__"} - drawn == set()


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_a_library_has_one_way_in(library: str) -> None:
    """What is heavy or comes with an extra is imported where it is needed and nowhere else."""
    users = {
        module
        for module, path in MODULES.items()
        if library in {home(name) for name in imports(path)}
    }

    assert {user for user in users if not {user, home(user)} & ONLY_IN[library]} == set()


def test_importing_actorbus_is_light() -> None:
    """`import actorbus` loads no extra, no database and no exporter."""
    code = (
        "import sys, asyncio; before = set(sys.modules); import actorbus;"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert ran.returncode == 0, ran.stderr

    loaded = set(ran.stdout.split())

    assert loaded & ONLY_IN.keys() == set()
    assert loaded - sys.stdlib_module_names - LIGHT == set()


def test_testing_is_loaded_on_demand_and_needs_nothing_more() -> None:
    """`actorbus.testing` is no part of the face, and no extra is needed for it."""
    code = (
        "import sys, asyncio; before = set(sys.modules); import actorbus;"
        "assert not any(name.startswith('actorbus.testing') for name in sys.modules);"
        "import actorbus.testing;"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert ran.returncode == 0, ran.stderr

    assert set(ran.stdout.split()) - sys.stdlib_module_names - LIGHT == set()


def test_files_are_short() -> None:
    """No file is longer than one sitting can read."""
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}

    assert {name: n for name, n in lengths.items() if n > LONGEST} == {}


@pytest.mark.parametrize(
    ("module", "target"),
    [
        ("router", "mailbox"),
        ("mailbox", "bus"),
        ("worker", "bus"),
        ("metrics", "bus"),
        ("metrics", "journal.memory"),
        ("journal.base", "journal.memory"),
        ("journal.memory", "bus"),
        ("engine", "journal.sqlite"),
        ("bus", "journal.memory"),
        ("bus", "metrics"),
        ("bus", "cli.app"),
        ("streams", "cli.app"),
        ("bus", "testing"),
        ("testing.loop", "streams"),
        ("bus", "testing.virtual"),
        ("streams", "testing.recorder"),
        ("topic", ""),
        ("errors", "world"),
    ],
)
def test_the_rules_refuse_what_they_should(module: str, target: str) -> None:
    """The check itself refuses an edge of each forbidden kind."""
    assert not allowed(module, target)
