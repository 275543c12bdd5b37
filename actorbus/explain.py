"""Explain: who would get a topic, through which pattern, and who only just would not.

Slow on purpose: it looks at every subscription, so that the answer can say why not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from actorbus.routing import Routes
from actorbus.subscription import Subscription
from actorbus.tap import Tap
from actorbus.topic import Pattern

NEAR_MISSES = 20


@dataclass(frozen=True, slots=True)
class Match:
    """A subscription that gets the topic.

    Attributes:
        subscription: Its name.
        pattern: The first of its patterns that matches.
        state: Of its actor; ``stream`` for a stream or a wait.
        room: Free places in its mailbox now.
        group: The group it shares events with, or None.
    """

    subscription: str
    pattern: str
    state: str
    room: int
    group: str | None


@dataclass(frozen=True, slots=True)
class NearMiss:
    """A subscription that does not get the topic, though one might think so.

    Attributes:
        subscription: Its name.
        pattern: The pattern that comes nearest.
        reason: Why it does not match.
    """

    subscription: str
    pattern: str
    reason: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Who gets a topic and why; ``str()`` of it is for people.

    Attributes:
        topic: The topic.
        matches: Who gets it, in order of subscription.
        near_misses: Who does not, but nearly.
    """

    topic: str
    matches: tuple[Match, ...]
    near_misses: tuple[NearMiss, ...]

    def __str__(self) -> str:
        count = len(self.matches)
        lines = [f"{self.topic} -> {count} subscription{'' if count == 1 else 's'}"]
        for match in self.matches:
            group = f", one of group {match.group}" if match.group else ""
            lines.append(
                f"  {match.subscription}  through {match.pattern}  "
                f"({match.state}, room for {match.room}{group})"
            )
        if self.near_misses:
            lines.append("near misses")
            lines += [f"  {m.subscription}  {m.pattern}: {m.reason}" for m in self.near_misses]
        return "\n".join(lines)


def explain(topic: str, everyone: Iterable[Subscription | Tap], routes: Routes) -> Explanation:
    """Explain a checked topic.

    Args:
        topic: The topic.
        everyone: All live subscriptions.
        routes: The bus's routes.
    """
    matching = routes.targets(topic)
    others = (_near_miss(topic, target) for target in everyone if target not in matching)
    misses = sorted((miss for miss in others if miss is not None), key=lambda pair: pair[0])
    return Explanation(
        topic,
        tuple(_match(topic, target) for target in matching),
        tuple(miss for _, miss in misses[:NEAR_MISSES]),
    )


def _match(topic: str, target: Subscription | Tap) -> Match:
    pattern = next(str(each) for each in target.patterns if each.matches(topic))
    if isinstance(target, Tap):
        return Match(target.name, pattern, "stream", 0, None)
    target.progress()
    room = max(0, target.inbox.room)
    return Match(target.name, pattern, str(target.state), room, target.options.group)


def _near_miss(topic: str, target: Subscription | Tap) -> tuple[int, NearMiss] | None:
    if isinstance(target, Subscription):
        for pattern in target.patterns:
            if pattern.matches(topic):
                out = next(str(each) for each in target.options.exclude if each.matches(topic))
                return 0, NearMiss(target.name, str(pattern), f"excluded by {out}")
    scored = [(*scored_reason, pattern) for pattern in target.patterns
              if (scored_reason := distance(topic, pattern)) is not None]  # fmt: skip
    if not scored:
        return None
    score, reason, pattern = min(scored, key=lambda entry: entry[0])
    return score, NearMiss(target.name, str(pattern), reason)


def distance(topic: str, pattern: Pattern) -> tuple[int, str] | None:
    """Return how far a pattern is from matching, and why; None if it is not near."""
    if topic.startswith("$") != pattern.segments[0].startswith("$"):
        return None
    if Pattern(str(pattern).lower()).matches(topic.lower()):
        return 1, "upper and lower case differ"
    segments = topic.split(":")
    if "**" not in pattern.segments:
        same = [Pattern(p).matches(s) for p, s in zip(pattern.segments, segments, strict=False)]
        wanted, given = len(pattern.segments), len(segments)
        if all(same) and wanted != given:
            return 2, f"matches {wanted} segment{'s' * (wanted > 1)}, the topic has {given}"
        if wanted == given and same.count(False) == 1 and wanted > 1:
            at = same.index(False)
            return (
                3,
                f"segment {at + 1} is {pattern.segments[at]!r}, the topic has {segments[at]!r}",
            )
    elif pattern.segments[0] == segments[0]:
        return 4, "the rest of the pattern does not match"
    return None
