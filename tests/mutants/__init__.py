"""Mutants: faults planted in actorbus, to show that the tests can fail.

``python -m tests.mutants`` plants one fault after the other, each in a fresh copy of the tree, runs
the tests that should see it, and says what did: the test, the line that failed, and for a test with
many examples how many it took. A fault that nothing sees is a hole in the tests.

    fault      what a fault is, and planting it
    faults     all of them, by what they break
    witness    a plugin of pytest that writes down what failed first
    trial      the copies, the runs, and what they came to
    report     the table, for a terminal, as JSON and as Markdown
    __main__   the command
"""
