"""The command line: `actorbus demo` and `actorbus match`.

Nothing is imported here, so that `python -m actorbus` can say which extra is missing.
"""
