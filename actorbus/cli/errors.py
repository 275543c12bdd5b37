"""CommandError: what a command says when it cannot do what was asked."""

from __future__ import annotations


class CommandError(Exception):
    """A command failed for a reason its user can act on; shown as one line, exit code 2."""
