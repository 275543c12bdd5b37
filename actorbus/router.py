"""Router: which values a topic is for, out of a million patterns.

It knows no subscriptions: a pattern stands for values of the caller's, and what a topic's values
are compiled to (a route) is the caller's too.

Three tiers:

1. Patterns without wildcards live in one dict, topic -> values.
2. Patterns with wildcards live in a trie over segments, walked as a nondeterministic automaton: all
   nodes reached so far are kept side by side, so nothing backtracks. A ``**`` node, once reached,
   stays reached. Affixes such as ``job_*`` are ordinary children under their own text; the node
   counts their *shapes* (lengths of prefix and suffix), and each shape costs one look-up.
3. Routes are cached in two generations: when the young one is full, it becomes the old one and the
   old one is forgotten; a route used again moves back. Nearly an LRU, at one dict look-up per hit.

Invariants: `route` equals a fresh ``build(topic, match(topic))`` at all times; a topic starting
with ``$`` is matched by literal first segments only; a removed pattern leaves no node behind; the
cache holds at most 2 x ``cache_size`` topics, those that matched nothing included.

Complexity: d = segments of the topic, V = reached (node, position) pairs. `match` is O(V) and does
not depend on the number of patterns: V is at most d times the nodes on paths that fit the topic's
first segments, usually d to 4d. `add` and `remove` are O(segments of the pattern). Dropping cached
routes is amortised O(1): each is dropped once for each time it was cached.

Source: the active set is Thompson's, "Regular Expression Search Algorithm" (CACM 11:6, 1968); a
trie of literals and wildcards under a result cache is what nats-server does (server/sublist.go);
the two generations are those of hashlru (github.com/dominictarr/hashlru).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from actorbus.topic import Pattern

T = TypeVar("T", bound=Hashable)
R = TypeVar("R")


class Router(Generic[T, R]):
    """Patterns to values, topics to cached routes.

    Not safe for several threads at once. A route must not be None: that is how a plain
    ``router.cache.get(topic)`` says "not cached".

    Args:
        build: Makes the route of a topic from the topic and its values; must not add or remove.
        cache_size: Topics per cache generation, at least 1.

    Attributes:
        cache: The young generation, topic -> route, for callers who look before they call
            `route`. Always the same dict; read it only.

    Raises:
        ValueError: `cache_size` is below 1.
    """

    __slots__ = ("_build", "_cache_size", "_exact", "_old", "_root", "_size", "_young", "cache")

    def __init__(
        self, build: Callable[[str, tuple[T, ...]], R], *, cache_size: int = 16_384
    ) -> None:
        if cache_size < 1:
            raise ValueError(f"cache_size must be at least 1, not {cache_size}")
        self._build = build
        self._cache_size = cache_size
        self._exact: dict[str, T | _Several[T]] = {}
        self._root: _Node[T] = _Node()
        self._size = 0
        self._young: _Generation[R] = _Generation()
        self._old: _Generation[R] = _Generation()
        self.cache: dict[str, R] = self._young.routes

    def __len__(self) -> int:
        """Return the number of (pattern, value) pairs."""
        return self._size

    def add(self, pattern: Pattern, value: T) -> None:
        """Let a pattern stand for a value, as well as for those it stands for already.

        Adding a pair a second time changes nothing.

        Args:
            pattern: Which topics.
            value: Hashable; equal values are one.
        """
        node = None if pattern.exact else _grow(self._root, pattern.segments)
        held = self._exact.get(pattern.text, _NONE) if node is None else node.values
        if _holds(held, value):
            return
        if node is None:
            self._exact[pattern.text] = _with(held, value)
        else:
            node.values = _with(held, value)
        self._size += 1
        self._drop_routes(pattern)

    def remove(self, pattern: Pattern, value: T) -> None:
        """Undo one `add`.

        Args:
            pattern: As given to `add`.
            value: As given to `add`.

        Raises:
            KeyError: The pair is not there.
        """
        path = [] if pattern.exact else _path(self._root, pattern.segments)
        held = path[-1].values if path else self._exact.get(pattern.text, _NONE)
        if not _holds(held, value):
            raise KeyError(pattern.text, value)
        left = _without(held, value)
        if path:
            path[-1].values = left
            _prune(path, pattern.segments)
        elif left is _NONE:
            del self._exact[pattern.text]
        else:
            self._exact[pattern.text] = left
        self._size -= 1
        self._drop_routes(pattern)

    def match(self, topic: str) -> tuple[T, ...]:
        """Return the values a topic is for, each once, without the cache.

        The order is repeatable, but is not the order of `add`.

        Args:
            topic: A valid topic, the bus's own included; it is not checked again.
        """
        found = [node.values for node in self._reached(topic) if node.values is not _NONE]
        exact = self._exact.get(topic, _NONE)
        if exact is not _NONE:
            found.append(exact)
        if len(found) == 1 and not isinstance(found[0], _Several):
            return (found[0],)
        unique: dict[T, None] = {}
        for held in found:
            if isinstance(held, _Several):
                unique.update(held)
            else:
                unique[held] = None
        return tuple(unique)

    def route(self, topic: str) -> R:
        """Return the route of a topic, from the cache where it is there.

        Args:
            topic: A valid topic, the bus's own included; it is not checked again.

        Raises:
            Exception: Whatever `build` raises; nothing is cached then.
        """
        route = self.cache.get(topic)
        if route is not None:
            return route
        route = self._old.drop(topic)
        if route is None:
            route = self._build(topic, self.match(topic))
        if len(self.cache) >= self._cache_size:
            self._young.age_into(self._old)
        self._young.keep(topic, route)
        return route

    def forget(self, topic: str) -> None:
        """Drop the cached route of one topic, if there is one; the next `route` builds it anew."""
        self._young.drop(topic)
        self._old.drop(topic)

    def clear_cache(self) -> None:
        """Drop every cached route."""
        self._young.clear()
        self._old.clear()

    def _drop_routes(self, pattern: Pattern) -> None:
        """Drop the cached routes that a change of `pattern` may have made untrue."""
        if pattern.exact:
            self.forget(pattern.text)
            return
        first = pattern.segments[0]
        if "*" in first:
            self.clear_cache()
        else:
            self._young.drop_all(first)
            self._old.drop_all(first)

    def _reached(self, topic: str) -> list[_Node[T]]:
        """Return the trie nodes whose patterns match, each once."""
        segments = topic.split(":")
        active = [self._root]
        if topic.startswith("$"):
            literal = self._root.kids.get(segments.pop(0)) if self._root.kids else None
            active = [] if literal is None else [literal]
        # Any other node is entered from its one parent only, and so at most once per segment; a
        # `**` node may be entered again while it stays reached, which the dict makes one.
        deep: dict[_Node[T], None] = {}
        for segment in segments:
            for node in active:
                if node.deep is not None:
                    deep[node.deep] = None
            active = _step([*active, *deep] if deep else active, segment)
            if not (active or deep):
                return active
        for node in active:
            if node.deep is not None:
                deep[node.deep] = None
        return [*active, *deep]


class _Several(dict[T, None]):
    """Two or more values of one pattern, in the order added.

    A single value is held bare, which saves a container for almost every pattern; this private
    class tells the two apart whatever the caller's values are. No value at all is `_NONE`.
    """


_NONE: Final[_Several[Any]] = _Several()


def _holds(held: T | _Several[T], value: T) -> bool:
    if isinstance(held, _Several):
        return value in held
    return held is value or held == value


def _with(held: T | _Several[T], value: T) -> T | _Several[T]:
    if held is _NONE:
        return value
    if isinstance(held, _Several):
        held[value] = None
        return held
    return _Several({held: None, value: None})


def _without(held: T | _Several[T], value: T) -> T | _Several[T]:
    if not isinstance(held, _Several):
        return _NONE
    del held[value]
    return next(iter(held)) if len(held) == 1 else held


class _Node(Generic[T]):
    """A place in the trie: the end of a pattern, the beginning of others, or both.

    Attributes:
        kids: Children by literal segment or affix text; the two never collide, since a literal
            holds no ``*``.
        shapes: (length of prefix, length of suffix) -> affixes of that shape among `kids`.
        star: The child for ``*``.
        deep: The child for ``**``.
        values: Of the pattern that ends here.
    """

    __slots__ = ("deep", "kids", "shapes", "star", "values")

    def __init__(self) -> None:
        self.kids: dict[str, _Node[T]] | None = None
        self.shapes: dict[tuple[int, int], int] | None = None
        self.star: _Node[T] | None = None
        self.deep: _Node[T] | None = None
        self.values: T | _Several[T] = _NONE

    def child(self, segment: str) -> _Node[T] | None:
        """Return the child for a segment of a pattern."""
        if segment == "*":
            return self.star
        if segment == "**":
            return self.deep
        return None if self.kids is None else self.kids.get(segment)

    def plant(self, segment: str) -> _Node[T]:
        """Make the child for a segment of a pattern, which has none yet."""
        node: _Node[T] = _Node()
        if segment == "*":
            self.star = node
        elif segment == "**":
            self.deep = node
        else:
            if self.kids is None:
                self.kids = {}
            self.kids[segment] = node
            if "*" in segment:
                self._count_shape(segment, 1)
        return node

    def cut(self, segment: str) -> None:
        """Remove the child for a segment of a pattern."""
        if segment == "*":
            self.star = None
        elif segment == "**":
            self.deep = None
        elif self.kids is not None:
            del self.kids[segment]
            if "*" in segment:
                self._count_shape(segment, -1)
            self.kids = self.kids or None

    def _count_shape(self, affix: str, change: int) -> None:
        shapes = self.shapes or {}
        shape = (affix.index("*"), len(affix) - affix.index("*") - 1)
        shapes[shape] = shapes.get(shape, 0) + change
        if not shapes[shape]:
            del shapes[shape]
        self.shapes = shapes or None

    def is_empty(self) -> bool:
        """Return whether no pattern ends here or goes on from here."""
        return self.values is _NONE and not (self.kids or self.star or self.deep)


def _step(active: list[_Node[T]], segment: str) -> list[_Node[T]]:
    """Return the nodes that one more segment of a topic leads to, ``**`` nodes apart."""
    entered = []
    for node in active:
        kids = node.kids
        if kids is not None:
            child = kids.get(segment)
            if child is not None:
                entered.append(child)
            if node.shapes is not None:
                entered += _affixes(kids, node.shapes, segment)
        if node.star is not None:
            entered.append(node.star)
    return entered


def _affixes(
    kids: dict[str, _Node[T]], shapes: dict[tuple[int, int], int], segment: str
) -> list[_Node[T]]:
    """Return the affix children that fit, `shapes` being (length of prefix, of suffix)."""
    size = len(segment)
    texts = (f"{segment[:a]}*{segment[size - b :]}" for a, b in shapes if a + b <= size)
    return [kids[text] for text in texts if text in kids]


def _grow(node: _Node[T], segments: tuple[str, ...]) -> _Node[T]:
    """Return the node of a pattern, made where it is missing."""
    for segment in segments:
        node = node.child(segment) or node.plant(segment)
    return node


def _path(node: _Node[T], segments: tuple[str, ...]) -> list[_Node[T]]:
    """Return the nodes from `node` to the pattern's own, or nothing where one is missing."""
    path = [node]
    for segment in segments:
        child = path[-1].child(segment)
        if child is None:
            return []
        path.append(child)
    return path


def _prune(path: list[_Node[T]], segments: tuple[str, ...]) -> None:
    """Remove the nodes at the end of `path` that nothing needs any more."""
    for depth in range(len(segments), 0, -1):
        if not path[depth].is_empty():
            return
        path[depth - 1].cut(segments[depth - 1])


class _Generation(Generic[R]):
    """Cached routes, and per first segment which topics of `routes` begin with it."""

    __slots__ = ("routes", "topics")

    def __init__(self) -> None:
        self.routes: dict[str, R] = {}
        self.topics: dict[str, set[str]] = {}

    def keep(self, topic: str, route: R) -> None:
        self.routes[topic] = route
        self.topics.setdefault(topic.partition(":")[0], set()).add(topic)

    def drop(self, topic: str) -> R | None:
        route = self.routes.pop(topic, None)
        if route is not None:
            first = topic.partition(":")[0]
            self.topics[first].discard(topic)
            if not self.topics[first]:
                del self.topics[first]
        return route

    def drop_all(self, first: str) -> None:
        for topic in self.topics.pop(first, ()):
            del self.routes[topic]

    def age_into(self, older: _Generation[R]) -> None:
        """Become empty; `older` holds what this one held, and forgets what it held."""
        older.routes, older.topics = self.routes.copy(), self.topics
        self.clear()

    def clear(self) -> None:
        self.routes.clear()  # in place: callers keep this dict
        self.topics = {}
