"""How many examples the properties are tried with: run them all, and count.

::

    python -m tests.examples                           200 examples a property, as in CI
    python -m tests.examples --json FILE tests/test_retry.py
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.figures import save, where

PASSING = re.compile(r"(\d+) passing")


class Count:
    """Counts, as a plugin of pytest, the examples that passed.

    Attributes:
        examples: How many, by the name of the test. Examples written down by hand are not in it.
    """

    def __init__(self) -> None:
        self.examples: dict[str, int] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Take note of what Hypothesis says of a test."""
        said = getattr(report, "_hypothesis_stats", None)
        if said is not None:
            self.examples[report.nodeid] = sum(map(int, PASSING.findall(said)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code of pytest."""
    parser = argparse.ArgumentParser(prog="python -m tests.examples", description=__doc__)
    parser.add_argument("tests", nargs="*", default=["tests"])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    options = parser.parse_args(arguments)
    os.environ.setdefault("HYPOTHESIS_PROFILE", "ci")
    import pytest  # after the profile is set

    count = Count()
    code = pytest.main(["-q", "-m", "hypothesis", *options.tests], plugins=[count])
    if code:
        return int(code)
    total = sum(count.examples.values())
    report = {**where(), "properties": len(count.examples), "examples": total}
    print(f"{total:,} examples of {len(count.examples)} properties")
    if options.json:
        save(report, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
