"""The sweep: many small programs on a bus, each under thousands of orders of its tasks.

::

    python -m tests.sweep                              50,000 runs on every core
    python -m tests.sweep --only ring --seed 4711 --policy pct      one of them again

    books        every delivery accounted for, by a count that is not the bus's; faults counted
    scenarios    the programs
    runs         which runs there are, and one lot of them
"""
