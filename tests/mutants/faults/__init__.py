"""All the faults, by what they break."""

from __future__ import annotations

from tests.mutants.fault import Fault
from tests.mutants.faults import (
    durable,
    failing,
    living,
    mailboxes,
    matching,
    publishing,
    transacting,
)

FAULTS: tuple[Fault, ...] = (
    *matching.FAULTS,
    *publishing.FAULTS,
    *mailboxes.FAULTS,
    *failing.FAULTS,
    *living.FAULTS,
    *transacting.FAULTS,
    *durable.FAULTS,
)
