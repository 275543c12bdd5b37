"""The router against the naive model: every pattern asked in turn, nothing cached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import example, given
from hypothesis import strategies as st

from actorbus import router as router_module
from actorbus.router import Router
from actorbus.topic import Pattern

if TYPE_CHECKING:
    from collections.abc import Iterator

    from actorbus.router import _Node

Pair = tuple[Pattern, int]
Step = tuple[str, Pattern, int] | tuple[str, str]

PARTS = ["a", "b", "ab", "$a", "*", "**", "a*", "*b", "a*b", "$*"]
SEGMENTS = ["a", "b", "ab", "aab", "$a", "$"]

patterns = (
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=5)
    .filter(lambda parts: sum("*" in part for part in parts) <= 4)
    .map(lambda parts: Pattern(":".join(parts)))
)
topics = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=5).map(":".join)
values = st.integers(0, 3)
steps: st.SearchStrategy[list[Step]] = st.lists(
    st.tuples(st.sampled_from(["add", "remove"]), patterns, values)
    | st.tuples(st.just("forget"), topics)
    | st.tuples(st.just("route"), topics),
    max_size=60,
)


def nodes(node: _Node[int]) -> Iterator[_Node[int]]:
    """Yield a node and all below it."""
    yield node
    for child in (*(node.kids or {}).values(), node.star, node.deep):
        if child is not None:
            yield from nodes(child)


def expected(pairs: set[Pair], topic: str) -> set[int]:
    """Return what the naive model matches."""
    return {value for pattern, value in pairs if pattern.matches(topic)}


def check_books(router: Router[int, tuple[int, ...]], pairs: set[Pair], size: int) -> None:
    """Check that all that is cached is true, indexed and bounded, and that nothing is left over."""
    assert len(router) == len(pairs)
    for generation in (router._young, router._old):
        assert len(generation.routes) <= size
        assert all(generation.topics.values())
        indexed = [topic for topics in generation.topics.values() for topic in topics]
        assert sorted(indexed) == sorted(generation.routes)
        for topic, route in generation.routes.items():
            assert set(route) == expected(pairs, topic)
    assert not router._young.routes.keys() & router._old.routes.keys()
    assert all(not node.is_empty() for node in nodes(router._root) if node is not router._root)


@given(steps, st.sampled_from([1, 2, 3, 16_384]))
@example(
    [
        ("add", Pattern("**:a:**"), 0),
        ("route", "a:a:a"),
        ("route", "$a:a"),
        ("remove", Pattern("**:a:**"), 0),
        ("route", "a:a:a"),
    ],
    1,
)
def test_router_is_the_naive_model(script: list[Step], size: int) -> None:
    """Whatever is added, removed, forgotten and routed, a route holds what the model matches."""
    router: Router[int, tuple[int, ...]] = Router(lambda _, found: found, cache_size=size)
    cache = router.cache
    pairs: set[Pair] = set()
    for step in script:
        if len(step) == 3:
            action, pattern, value = step
            change(router, pairs, action, (pattern, value))
        elif step[0] == "forget":
            router.forget(step[1])
            assert step[1] not in cache
        else:
            route = router.route(step[1])
            assert len(set(route)) == len(route)
            assert set(route) == set(router.match(step[1])) == expected(pairs, step[1])
            assert cache[step[1]] == route
        check_books(router, pairs, size)
    for pattern, value in pairs:
        router.remove(pattern, value)
    check_books(router, set(), size)
    assert router.cache is cache
    assert [*nodes(router._root)] == [router._root]
    assert router._root.is_empty()
    assert router._root.shapes is None
    assert not router._exact


def change(router: Router[int, tuple[int, ...]], pairs: set[Pair], action: str, pair: Pair) -> None:
    """Add or remove a pair in router and model; removing an absent one is a KeyError."""
    if action == "add":
        router.add(*pair)
        pairs.add(pair)
        return
    try:
        router.remove(*pair)
    except KeyError:
        assert pair not in pairs
    else:
        pairs.remove(pair)


@given(st.lists(patterns, max_size=30), topics)
def test_system_topics_are_isolated(some: list[Pattern], topic: str) -> None:
    """A pattern with a wildcard in its first segment never gets a topic starting with `$`."""
    router: Router[Pattern, tuple[Pattern, ...]] = Router(lambda _, found: found)
    for pattern in some:
        router.add(pattern, pattern)
    for pattern in router.route(f"${topic}"):
        assert pattern.segments[0] == f"${topic}".partition(":")[0]


@given(
    st.lists(patterns, max_size=60, unique=True),
    st.lists(st.sampled_from(["a", "ab"]), min_size=1, max_size=16).map(":".join),
)
def test_no_node_is_visited_twice_for_a_segment(some: list[Pattern], topic: str) -> None:
    """A match looks at each node at most once per segment, so at most d x nodes in all."""
    router: Router[int, tuple[int, ...]] = Router(lambda _, found: found)
    for number, pattern in enumerate(some):
        router.add(pattern, number)
    steps_made = 0
    step = router_module._step

    def counting(active: list[_Node[int]], segment: str) -> list[_Node[int]]:
        nonlocal steps_made
        steps_made += 1
        assert len({id(node) for node in active}) == len(active)
        return step(active, segment)

    router_module._step = counting  # type: ignore[assignment] # narrower than the generic one
    try:
        reached = router._reached(topic)
    finally:
        router_module._step = step
    assert len({id(node) for node in reached}) == len(reached)
    assert steps_made <= len(topic.split(":"))


@given(st.lists(patterns, min_size=1, max_size=8))
def test_a_pattern_matches_its_own_text(several: list[Pattern]) -> None:
    """Who subscribed to a pattern is found by taking its text for a topic."""
    router: Router[int, tuple[int, ...]] = Router(lambda _, found: found)
    for number, pattern in enumerate(several):
        router.add(pattern, number)
    for number, pattern in enumerate(several):
        assert number in router.match(pattern.text)
