"""The soak: real time, a real loop, every policy at once, and the books looked at each second.

::

    python -m tests.soak                                   30 minutes
    python -m tests.soak --minutes 0.2                     a smoke test
    python -m tests.soak --json soak.json --plot DIR       the figures, and a chart of them

    load      the bus under load: a subscriber of every kind, each with a count of its own
    chores    who publishes, asks, comes and goes, replays, scrapes and gives up
    watch     the books and the size of the process, second by second; what is wrong with them
    plot      a chart of that
"""
