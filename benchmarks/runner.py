"""Run cases, each in a child process, and judge what only several children together can tell."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, Any

from benchmarks.case import Case
from benchmarks.machine import ROOT, provenance
from benchmarks.peers import installed

FORMAT = 1
LONGEST = 600.0  # seconds a child may take for actorbus
LONGEST_PEER = 120.0  # and for a peer
ISOLATING = "isolating"  # stands for the fastest peer that bad neighbours do not harm

PATH = re.compile(r"(?<![\w.])(?:[A-Za-z]:)?(?:[\\/][^\s\\/:'\"]+)*[\\/](?=[^\s\\/:'\"]+)")
"""The folders of an absolute path: a report does not tell how somebody's disk is arranged."""

Report = dict[str, Any]
Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """One child process: a case, answered by actorbus or by a peer."""

    case: Case
    peer: str | None = None

    @property
    def title(self) -> str:
        """What the progress bar shows."""
        return f"{self.case.name} {self.peer}" if self.peer else self.case.name

    def run(self, *, quick: bool) -> Result:
        """Run the child and return its answer; a child that breaks is an answer too."""
        command = [sys.executable, "-m", "benchmarks.child", self.case.name]
        command += ["--peer", self.peer] if self.peer else []
        command += ["--quick"] if quick else []
        began = time.perf_counter()
        try:
            answer = answer_of(command, LONGEST_PEER if self.peer else LONGEST)
        except (OSError, ValueError, ChildError) as error:
            answer = {
                "case": self.case.name,
                "subject": self.peer or "actorbus",
                "error": str(error) if isinstance(error, ChildError) else repr(error),
                "figures": [],
                "seconds": time.perf_counter() - began,
            }
        if answer["error"]:
            answer["error"] = PATH.sub("", answer["error"])
        return answer


class ChildError(Exception):
    """A child ended without an answer."""


def answer_of(command: list[str], longest: float) -> Result:
    """Return what a child prints; it and what it has started are ended when it is over.

    Raises:
        ChildError: It took too long, or did not end well.
        ValueError: What it has printed is no JSON.
    """
    with TemporaryFile() as out, TemporaryFile() as err:  # no pipes: nobody can hold them open
        child = subprocess.Popen(  # noqa: S603 this interpreter, and names of our own
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            code = child.wait(longest)
        except subprocess.TimeoutExpired:
            raise ChildError(f"no answer after {longest:.0f} s") from None
        finally:
            _end(child)
        if code != 0:
            last = (_all_of(err).strip().splitlines() or [""])[-1]
            raise ChildError(f"the process ended with {_ending(code)}: {last}".rstrip(": "))
        answer: Result = json.loads(_all_of(out))
    return answer


def _all_of(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a child with all it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
    child.wait()


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def jobs(cases: Iterable[Case], *, peers: bool) -> list[Job]:
    """Return what to run: every case, followed by the peers that can answer it."""
    names = installed() if peers else {}
    plan: list[Job] = []
    for case in cases:
        plan.append(Job(case))
        rivals = case.rivals if case.peer is not None else ()
        plan += [Job(case, name) for name in names if name in rivals]
    return plan


def run(plan: list[Job], *, quick: bool, step: Callable[[str], None]) -> Report:
    """Run all jobs, one after the other; an interrupt ends the run and keeps what was found.

    Args:
        plan: What to run.
        quick: Whether to run little and judge nothing.
        step: Called with a title before each job, and with an empty one at the end.

    Returns:
        The report: plain data, ready for JSON.
    """
    report: Report = {"format": FORMAT, "quick": quick, **provenance()}
    cases = {job.case.name: job.case for job in plan}
    report["cases"] = {
        name: {"question": case.question, "completion": case.completion}
        for name, case in cases.items()
    }
    report["results"] = []
    try:
        for job in plan:
            step(job.title)
            report["results"].append(job.run(quick=quick))
    except KeyboardInterrupt:
        report["interrupted"] = True
    step("")
    report["verdicts"] = [] if quick else verdicts(cases, report["results"])
    return report


def verdicts(cases: dict[str, Case], results: list[Result]) -> list[dict[str, Any]]:
    """Judge actorbus against the peers: its multiple of the baseline over theirs."""
    ratios = {
        (result["case"], result["subject"]): result["figures"][0]["ratio"]
        for result in results
        if result["figures"] and result["figures"][0]["ratio"] is not None
    }
    isolating = {
        result["subject"]
        for result in results
        for figure in result["figures"]
        if result["subject"] != "actorbus" and figure["notes"].get("isolates")
    }
    found = []
    for case in cases.values():
        own = ratios.get((case.name, "actorbus"))
        for peer, least in case.times.items():
            rival = _fastest(ratios, case.name, isolating) if peer == ISOLATING else peer
            theirs = ratios.get((case.name, rival)) if rival else None
            if own is None or theirs is None:
                continue
            value = own["median"] / theirs["median"]
            found.append(
                {
                    "case": case.name,
                    "what": f"times {rival}" + (", fastest isolating" * (peer == ISOLATING)),
                    "value": value,
                    "low": own["low"] / theirs["high"],
                    "high": own["high"] / theirs["low"],
                    "goal_text": f"≥ {least:,g} x",
                    "met": value >= least,
                }
            )
    return found


def _fastest(ratios: dict[tuple[str, str], Any], case: str, among: set[str]) -> str | None:
    rates = {peer: ratios[case, peer]["median"] for peer in among if (case, peer) in ratios}
    return max(rates, key=lambda peer: rates[peer], default=None)
