"""Drawing: what Hypothesis may choose for a model: scripts, policies, orders."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from actorbus.testing.scripts import Script

TOPICS = ("a:x", "a:y", "b:x", "b:y", "c:x")
PATTERNS = ("a:*", "b:*", "**", "a:x", "*:x")
WAITS = (None, "admission", "settlement")

topics = st.sampled_from(TOPICS)
patterns = st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=2, unique=True)
keys = st.sampled_from((None, "k", "l"))
waits = st.sampled_from(WAITS)
which = st.integers(0, 1000)
orders = st.integers(0, 1 << 16)
picks = st.lists(st.integers(0, 5), min_size=1, max_size=12)

_simple = st.sampled_from(
    (
        ("ok",), ("ok",), ("fail", 1), ("fail", 2), ("fail", 9), ("hang",), ("deaf",),
        ("sleep", 0.0), ("sleep", 0.5), ("sleep", 7.0), ("reject",), ("later", 0.3), ("cancel",),
        ("hard",), ("unsubscribe",),
    )
)  # fmt: skip
_plain = st.builds(Script, _simple, _simple, _simple)
_actions = st.one_of(
    _simple,
    _simple,
    st.tuples(st.just("publish"), topics, _plain, waits),
    st.tuples(st.just("echo"), waits),
    st.tuples(st.just("ask"), topics, _plain),
)
scripts = st.builds(Script, _actions, _actions, _actions)

kinds = st.sampled_from(("async", "async", "payload", "actor", "actor", "thread", "inline"))
policies: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"mailbox": st.integers(1, 4)},
    optional={
        "overflow": st.sampled_from(("block", "block", "drop_new", "drop_old", "latest", "fail")),
        "put_timeout": st.sampled_from((0.0, 1.0, None)),
        "concurrency": st.sampled_from((1, 2, 3)),
        "key": st.sampled_from((None, "key")),
        "group": st.sampled_from((None, "g")),
        "guarantee": st.sampled_from(("at_least_once", "at_most_once")),
        "attempts": st.sampled_from((1, 3)),
        "timeout": st.sampled_from((None, 0.7)),
        "replay": st.sampled_from((0, 1)),
        "max_restarts": st.integers(0, 3),
        "on_failure": st.sampled_from(("restart", "escalate", "stop")),
        "on_give_up": st.sampled_from(("suspend", "stop")),
    },
)
strategies = st.sampled_from(("one_for_one", "one_for_all", "rest_for_one"))
