"""Router: matching, removal, what a change drops from the cache, and what a match costs."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import pytest

from actorbus import router as router_module
from actorbus.router import Router
from actorbus.topic import Pattern

if TYPE_CHECKING:
    from collections.abc import Iterable

Values = tuple[str, ...]


def make(*pairs: str, cache_size: int = 16_384) -> Router[str, Values]:
    """Return a router where each pattern stands for its own text and a route is the values."""
    router: Router[str, Values] = Router(lambda _, values: values, cache_size=cache_size)
    for text in pairs:
        router.add(Pattern(text), text)
    return router


def make_counting(cache_size: int = 16_384) -> tuple[Router[str, str], list[str]]:
    """Return a router and the list of topics it has built a route for."""
    built: list[str] = []

    def build(topic: str, _: Values) -> str:
        built.append(topic)
        return topic

    return Router(build, cache_size=cache_size), built


def warm(router: Router[str, Values], topics: Iterable[str]) -> None:
    """Route each topic once, so that it is cached."""
    for topic in topics:
        router.route(topic)


def is_bare(router: Router[str, Values]) -> bool:
    """Return whether no pattern has left anything behind."""
    root = router._root
    return root.is_empty() and root.kids is None and root.shapes is None and not router._exact


# --- matching


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("task_manager:task_created", {"**", "task_manager:*", "task_manager:**", "*:task_*"}),
        ("task_manager", {"**", "task_manager:**", "*"}),
        ("task_manager:a:b", {"**", "task_manager:**", "**:b"}),
        ("user:login", {"**", "user:login", "*:*in"}),
        ("b", {"**", "**:b", "*"}),
        ("$bus:b", {"$bus:**"}),
        ("$bus", {"$bus:**"}),
        ("$other:b", set()),
    ],
)
def test_all_sorts_of_patterns_together(topic: str, expected: set[str]) -> None:
    """A topic gets the values of every pattern that matches, from both tiers."""
    router = make(
        "task_manager:*", "task_manager:**", "*:task_*", "user:login", "*:*in",
        "*", "**", "**:b", "$bus:**", "$b*:**",
    )  # fmt: skip
    assert set(router.match(topic)) == expected
    assert set(router.route(topic)) == expected


def test_value_with_several_matching_patterns_appears_once() -> None:
    """One value behind an exact pattern, two wildcards and one pattern twice is one match."""
    router: Router[str, Values] = Router(lambda _, values: values)
    for text in ("a:b", "a:*", "**", "**:b", "a:*"):
        router.add(Pattern(text), "same")
    router.add(Pattern("a:*"), "other")
    assert sorted(router.match("a:b")) == ["other", "same"]


def test_any_hashable_is_a_value() -> None:
    """None, tuples and empty values are values like others, alone and together."""
    router: Router[object, tuple[object, ...]] = Router(lambda _, values: values)
    values: list[object] = [None, (), (1, 2), "", 0, frozenset()]
    for count, value in enumerate(values, 1):
        for text in ("a", "a:*"):
            router.add(Pattern(text), value)
        assert router.match("a") == router.match("a:b") == tuple(values[:count])
    for value in values:
        for text in ("a", "a:*"):
            router.remove(Pattern(text), value)
        assert value not in router.match("a") + router.match("a:b")
    assert len(router) == 0


def test_length_counts_pairs() -> None:
    """The length is the number of distinct (pattern, value) pairs."""
    router = make("a", "a:*")
    router.add(Pattern("a"), "second")
    router.add(Pattern("a"), "second")
    router.add(Pattern("a:*"), "a:*")
    assert len(router) == 3
    router.remove(Pattern("a"), "second")
    assert len(router) == 2


# --- removal


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a", "x"),
        ("a:*", "x"),
        ("a:b", "a:b"),
        ("a:*:c", "a:*:c"),
        ("a:b*", "a:b*"),
        ("*", "*"),
        ("a:**", "a:**"),
    ],
)
def test_removing_what_is_not_there_changes_nothing(text: str, value: str) -> None:
    """Removing an unknown pattern or value is a KeyError and leaves everything as it was."""
    router = make("a", "a:*", "a:*:c:d", "a:b*:c", "a:**:c")
    with pytest.raises(KeyError):
        router.remove(Pattern(text), value)
    assert len(router) == 5
    assert set(router.match("a:b:c")) == {"a:b*:c", "a:**:c"}


@pytest.mark.parametrize("text", ["a", "a:*", "a:**", "a*", "*:a*b:**", "**:a:b:c:**"])
def test_removal_prunes(text: str) -> None:
    """The last value of a pattern takes its nodes along; a second removal is a KeyError."""
    router = make(text)
    router.add(Pattern(text), "second")
    router.remove(Pattern(text), text)
    assert not is_bare(router)
    router.remove(Pattern(text), "second")
    assert is_bare(router)
    with pytest.raises(KeyError):
        router.remove(Pattern(text), "second")


def test_removal_spares_patterns_on_the_same_path() -> None:
    """Removing a pattern keeps those it begins, those it goes on from, and its siblings."""
    router = make("a:*", "a:*:b", "a:*:b:*", "a:*:c", "a:x*", "a:y*")
    router.remove(Pattern("a:*:b"), "a:*:b")
    router.remove(Pattern("a:x*"), "a:x*")
    assert router.match("a:q:b") == ()
    assert router.match("a:q") == ("a:*",)
    assert router.match("a:q:b:z") == ("a:*:b:*",)
    assert router.match("a:q:c") == ("a:*:c",)
    assert set(router.match("a:yes")) == {"a:*", "a:y*"}
    assert router.match("a:xes") == ("a:*",)


# --- cache


def test_route_is_built_once() -> None:
    """A route is built from topic and values, then comes from the cache, the same object."""
    built: list[str] = []

    def build(topic: str, values: Values) -> list[object]:
        built.append(topic)
        return [topic, values]

    router: Router[str, list[object]] = Router(build)
    router.add(Pattern("a:*"), "x")
    route = router.route("a:b")
    assert route == ["a:b", ("x",)]
    assert router.route("a:b") is route
    assert router.cache["a:b"] is route
    assert built == ["a:b"]


def test_topic_that_matches_nothing_is_cached() -> None:
    """Nobody's topic costs one match, not one per publish."""
    router = make("a")
    assert router.route("nobody:here") == ()
    assert "nobody:here" in router.cache


def test_failing_build_caches_nothing() -> None:
    """An error of `build` reaches the caller, and the next call tries again."""
    failures = [ZeroDivisionError("no")]

    def build(_: str, __: Values) -> str:
        if failures:
            raise failures.pop()
        return "route"

    router: Router[str, str] = Router(build)
    with pytest.raises(ZeroDivisionError):
        router.route("a")
    assert not router.cache
    assert router.route("a") == "route"


CACHED = ("a", "a:b", "a:b:c", "aa:b", "b:a", "b", "$bus:a")


@pytest.mark.parametrize("age", [0, 1], ids=["young", "old"])
@pytest.mark.parametrize(
    ("text", "dropped"),
    [
        ("a:b", {"a:b"}),
        ("a", {"a"}),
        ("x:y", set()),
        ("a:*", {"a", "a:b", "a:b:c"}),
        ("a:**:z", {"a", "a:b", "a:b:c"}),
        ("$bus:**", {"$bus:a"}),
        ("x:*", set()),
        ("*:b", set(CACHED)),
        ("**", set(CACHED)),
        ("a*:z", set(CACHED)),
    ],
)
def test_change_drops_what_it_may_touch(text: str, dropped: set[str], age: int) -> None:
    """Adding and removing drop one topic, one first segment or all, in both generations."""
    router = make("**:b")
    for change in (router.add, router.remove):
        router.clear_cache()
        warm(router, CACHED)
        if age:
            router._young.age_into(router._old)
        kept = {**router.cache, **router._old.routes}
        assert set(kept) == set(CACHED)
        change(Pattern(text), "new")
        assert set(router.cache) | set(router._old.routes) == set(CACHED) - dropped
        for topic in CACHED:
            assert router.route(topic) == router.match(topic)


def test_adding_a_pair_again_drops_nothing() -> None:
    """A change that changes nothing leaves the cache alone."""
    router = make("**")
    warm(router, CACHED)
    router.add(Pattern("**"), "**")
    assert set(router.cache) == set(CACHED)


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_cache_is_bounded_by_two_generations(size: int) -> None:
    """However many topics come, neither the generations nor their index outgrow the size."""
    router = make("**", cache_size=size)
    for number in range(1000):
        router.route(f"t{number}:x")
        for generation in (router._young, router._old):
            assert len(generation.routes) <= size
            assert len(generation.topics) == len(generation.routes)
    assert len(router._old.routes) == size


def test_route_in_use_survives_any_number_of_others() -> None:
    """A topic used once per generation stays cached: a hit in the old one moves it back."""
    router, built = make_counting(cache_size=4)
    for number in range(100):
        router.route("used")
        for other in range(3):
            router.route(f"t{number}:{other}")
    assert built.count("used") == 1


def test_moving_back_leaves_one_copy() -> None:
    """A route that moved back to the young generation is dropped by one change."""
    router = make("a:*", cache_size=2)
    warm(router, ["a:1", "b", "c", "a:1"])
    assert "a:1" in router.cache
    assert "a:1" not in router._old.routes
    router.remove(Pattern("a:*"), "a:*")
    assert router.route("a:1") == ()


def test_cache_is_the_same_dict_for_life() -> None:
    """Whoever keeps the cache sees every drop, every turn of generations and every clearing."""
    router = make("a:*", "**", cache_size=2)
    cache = router.cache
    warm(router, ["a:1", "a:2", "a:3", "b", "c"])
    router.add(Pattern("a:*"), "second")
    router.add(Pattern("**"), "second")
    assert cache == {}
    warm(router, ["a:1"])
    router.clear_cache()
    warm(router, ["b"])
    assert router.cache is cache
    assert cache == {"b": ("**", "second")}


@pytest.mark.parametrize("age", [0, 1], ids=["young", "old"])
def test_forget_drops_one_route(age: int) -> None:
    """`forget` drops that topic in either generation, and says nothing of an unknown one."""
    router, built = make_counting()
    for topic in ("a:1", "a:2"):
        router.route(topic)
    if age:
        router._young.age_into(router._old)
    router.forget("a:1")
    router.forget("unknown")
    for topic in ("a:1", "a:2"):
        router.route(topic)
    assert built == ["a:1", "a:2", "a:1"]


def test_build_may_forget_other_topics() -> None:
    """A route is cached though others are forgotten while it is built."""

    def build(topic: str, _: Values) -> str:
        router.forget("a")
        return topic

    router: Router[str, str] = Router(build)
    router.route("a")
    router.route("b")
    assert dict(router.cache) == {"b": "b"}


def test_cache_size_must_be_positive() -> None:
    """A cache of nothing is refused."""
    with pytest.raises(ValueError, match="cache_size must be at least 1"):
        make(cache_size=0)


# --- cost, counted in visits: nodes looked at, summed over the segments


@pytest.fixture
def visits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of nodes each step of a match looks at."""
    seen: list[int] = []
    step = router_module._step

    def counting(
        active: list[router_module._Node[str]], segment: str
    ) -> list[router_module._Node[str]]:
        assert len({id(node) for node in active}) == len(active), "a node was visited twice"
        seen.append(len(active))
        return step(active, segment)

    monkeypatch.setattr(router_module, "_step", counting)
    return seen


def test_cost_does_not_depend_on_the_number_of_patterns(visits: list[int]) -> None:
    """Twenty thousand patterns for other topics add no visit to a match."""
    router = make("a:*:c", "a:**", "a:b*:c", "**:c")
    few = len(router.match("a:b:c")), sum(visits)
    visits.clear()
    for number in range(4000):
        for text in ("x{}:*", "a:x{}:*", "a:*:x{}", "a:x{}*", "**:x{}"):
            router.add(Pattern(text.format(number)), "other")
    assert (len(router.match("a:b:c")), sum(visits)) == few == (4, 9)


def test_affixes_cost_one_look_up_per_shape() -> None:
    """Thousands of affixes at one place are as many shapes as they have lengths."""
    router = make(*(f"job_{number:04}*" for number in range(5000)), "*_done", "j*e")
    assert set(router._root.shapes or ()) == {(8, 0), (0, 5), (1, 1)}
    assert set(router.match("job_0042_done")) == {"job_0042*", "*_done", "j*e"}


def test_deep_wildcards_do_not_multiply(visits: list[int]) -> None:
    """Four `**` on sixteen equal segments visit each node at most once per segment."""
    router = make("**:a:**:a:**:a:**:a")
    assert router.match(":".join("a" * 16)) == ("**:a:**:a:**:a:**:a",)
    assert sum(visits) <= 16 * 9


def test_worst_case_of_single_wildcards_is_bounded(visits: list[int]) -> None:
    """All patterns of depth 16 with up to four `*` at once: the sum of binomials, no more."""
    router = make(
        *(
            ":".join("*" if place in places else "a" for place in range(16))
            for count in range(1, 5)
            for places in combinations(range(16), count)
        )
    )
    assert len(router.match(":".join("a" * 16))) == len(router) == 16 + 120 + 560 + 1820
    assert sum(visits) <= 9401


def test_unknown_topic_stops_early(visits: list[int]) -> None:
    """A topic nobody's pattern begins like is given up at its first segment."""
    router = make(*(f"tenant{number}:*:x:y" for number in range(100)))
    assert router.match("stranger:a:b:c:d:e:f:g") == ()
    assert visits == [1]
