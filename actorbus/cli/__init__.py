"""The command line: `actorbus demo`, `match`, `journal` and `dead-letters`.

Nothing is imported here, so that `python -m actorbus` can say which extra is missing.
"""
