"""Every example runs, fast, and prints what its last comment says."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))
MARK = "\n# Output:\n"


def promised(source: str) -> str:
    """Return what the last comment of an example says it prints."""
    comment = source.partition(MARK)[2]
    return "".join(f"{line.removeprefix('#').removeprefix(' ')}\n" for line in comment.splitlines())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_prints_what_its_last_comment_says(example: Path) -> None:
    """The output of an example is its last comment, line by line."""
    source = example.read_text()
    assert source.count(MARK) == 1, "an example ends with one comment that begins with '# Output:'"

    began = time.monotonic()
    ran = subprocess.run([sys.executable, example], capture_output=True, text=True, timeout=30)
    took = time.monotonic() - began

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == promised(source)
    assert took < 20, "examples take under 2 s; ten times that is no slow machine any more"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(example: Path) -> None:
    """An example has fewer than 60 lines and says in its first what it shows."""
    lines = example.read_text().splitlines()

    assert len(lines) < 60
    assert lines[0].startswith('"""')


def test_examples_are_numbered_and_listed() -> None:
    """The reading order lists every example once, in the order of its number."""
    listed = re.findall(r"\]\((\S+\.py)\)", (FOLDER / "README.md").read_text())

    assert listed == [path.name for path in EXAMPLES]
    assert [int(name[:2]) for name in listed] == list(range(1, len(listed) + 1))
