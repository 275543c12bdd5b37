"""One file per question; each names its cases in ``CASES``."""

from __future__ import annotations

from benchmarks.case import Case
from benchmarks.questions import (
    ask,
    drain,
    durable,
    failures,
    features,
    idle,
    isolation,
    latency,
    matching,
    memory,
    pruning,
    redelivery,
    scrape,
    throughput,
    wildcards,
)


def all_cases() -> list[Case]:
    """Return every case, in the order they are run and shown."""
    files = (
        throughput, wildcards, latency, features, failures, matching, idle, memory, ask, scrape,
        isolation, drain, durable, redelivery, pruning,
    )  # fmt: skip
    return [case for file in files for case in file.CASES]
