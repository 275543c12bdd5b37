"""How fast is actorbus, next to what you would use instead, and at what cost?

``python -m benchmarks`` answers on your machine. The way of one figure, and the map::

    __main__    the command line: run, show, compare, plot, readme
    runner      one child process per case and contender; the JSON; the verdicts across children
    child       one case in its own process: JSON on standard output
    case        Case, Goal, Figure: what is asked, what is promised, what came out
    clock       laps: alternate subject and baseline, in CPU time and wall time
    contender   handlers that count, actorbus, the baseline queue and the floor
    questions/  one file per question
    peers/      one small adapter per rival
    show, compare, plot    tables, two runs side by side, SVG
    readme      the figures of the README
"""
