"""Journals: where a durable bus keeps its events.

    base      the protocol, each guarantee in words; what goes in and what comes out
    memory    the reference implementation, for tests
    sqlite    a file that survives kill -9 and power loss

Nobody imports these but who names them: ``import actorbus`` loads no sqlite3.
"""
