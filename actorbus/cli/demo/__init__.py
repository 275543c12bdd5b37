r"""`actorbus demo`: a task manager whose parts know each other only by events.

::

    api.py      HTTP in, events out         traffic.py  the same calls, made up
        \                                     /
         tasks.py    what the application does, and the events it publishes
             |  bus
         plugins.py  who listens: notifications, analytics, calendar, board, webhooks, mailer
    process.py  the life of it all: listen, serve, drain
"""
