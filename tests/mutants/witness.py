"""Witness: a plugin of pytest that writes down what saw a fault, and after how many examples.

Loaded with ``-p tests.mutants.witness --witness FILE``. The file holds the test that runs, and from
the first failure on what failed, as JSON. It is written when a test starts, so it also says which
one was running when pytest was stopped from outside.

Hypothesis runs the examples of CI, and the same ones every time, so every run of the command comes
to the same; but it does not shrink, since only the first failing example counts. An example is
counted when Hypothesis calls the test with it; its engine has no public word for that.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.core import StateForActualGivenExecution
from hypothesis.errors import StopTest, UnsatisfiedAssumption

from tests.mutants.fault import ROOT

PROFILE = "mutants"

settings.register_profile(
    PROFILE, max_examples=200, deadline=None, derandomize=True, database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip

_run_one: Any = StateForActualGivenExecution.execute_once


class Examples:
    """How many examples the present test has run, up to the first that failed."""

    count = 0
    failed = False


def _counted(self: Any, *args: Any, **options: Any) -> Any:
    Examples.count += not Examples.failed
    try:
        return _run_one(self, *args, **options)
    except (StopTest, UnsatisfiedAssumption):  # an example Hypothesis gives up, not a failure
        raise
    except BaseException:
        Examples.failed = True
        raise


class Witness:
    """Writes down the running test, then the first failure."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = False

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Take note of the test that starts."""
        Examples.count, Examples.failed = 0, False
        self._write(test=nodeid, failed=False)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[Any]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Take note of the first failure."""
        report = yield
        if report.failed and call.excinfo is not None:
            self._write(test=item.nodeid, failed=True, **evidence(call.excinfo.value))
            self._seen = True
        return report

    def _write(self, **facts: Any) -> None:
        if not self._seen:
            self._path.write_text(json.dumps(facts))


def evidence(error: BaseException) -> dict[str, Any]:
    """Return what failed, where in the tests, and after how many examples.

    Args:
        error: What the test raised.
    """
    examples = Examples.count or None
    while True:
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        elif type(error).__name__ == "SweepFailure" and error.__cause__ is not None:
            examples = error.passed + 1  # type: ignore[attr-defined]  # its number of seeds
            error = error.__cause__
        else:
            break
    frames = traceback.extract_tb(error.__traceback__)
    ours = [each for each in frames if Path(each.filename).is_relative_to(ROOT / "tests")]
    where = ours[-1] if ours else None
    return {
        "where": where and where.name,
        "line": where and where.line,
        "error": traceback.format_exception_only(error)[0].strip()[:300],
        "examples": examples,
    }


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that names the file."""
    parser.addoption("--witness", type=Path, help="where to write what failed first, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    """Begin to watch."""
    if path := config.getoption("witness"):
        StateForActualGivenExecution.execute_once = _counted  # type: ignore[method-assign]
        config.pluginmanager.register(Witness(path))
