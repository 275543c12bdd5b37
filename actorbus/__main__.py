"""`python -m actorbus` and the script `actorbus`: the door to the command line.

It imports nothing but the standard library until a command runs, so that a missing extra is one
line that names it and not a traceback.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_OF_THE_EXTRA = frozenset({"typer", "click"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows the program's name; the process's own by default.

    Returns:
        The exit code: 0, 1 where a command's answer is no, 2 after an error.
    """
    try:
        from actorbus.cli.app import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _OF_THE_EXTRA:
            raise
        need = 'the command line needs an extra: python -m pip install "actorbus[cli]"'
        sys.stderr.write(f"actorbus: {need}\n")
        return 2
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
