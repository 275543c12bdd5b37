r"""Topics and patterns: the grammar, and one pattern against one topic.

A topic is 1 to 16 segments joined by ``:``; a segment is one or more printable characters other
than white space and ``: * ? # > [ ] { } \ !``; the whole is at most 512 bytes of UTF-8. A pattern
is like a topic, and up to 4 of its segments may be wildcards::

    *                        exactly one segment
    **                       zero or more segments, in any place
    task_*  *_done  a_*_z    one segment; here * is zero or more characters of it

Invariants: what `check_topic` and `Pattern` let through keeps every limit above, so nothing behind
them checks again; a wildcard in the first segment never matches a topic that starts with ``$``;
two patterns are equal when their canonical texts are.

Complexity: checking is linear in a text of at most 512 bytes, and a longer one is refused by its
length alone. `Pattern.matches` takes at most (segments of the topic) x (segments of the pattern)
steps: on a mismatch only the last ``**`` takes one segment more, since an earlier one could reach
no topic that the last cannot. This is the shell's way with ``*``, on segments instead of
characters.
"""

from __future__ import annotations

import re
from typing import Final, NoReturn, final

from actorbus.errors import InvalidPatternError, InvalidTopicError

MAX_SEGMENTS: Final = 16
"""Segments of a topic or pattern."""

MAX_BYTES: Final = 512
"""Bytes of UTF-8 of a topic or pattern."""

MAX_WILDCARDS: Final = 4
"""Wildcard segments of a pattern; without a limit they can multiply what one match visits."""

# Of all white space only the plain space is printable, so `str.isprintable` refuses the rest,
# and lone surrogates with it.
_NOT_IN_TOPIC: Final = re.compile(r"[*?#>\[\]{}\\! ]")
_NOT_IN_PATTERN: Final = re.compile(r"[?#>\[\]{}\\! ]")


def check_topic(topic: object, *, system: bool = False) -> tuple[str, ...]:
    """Check a topic against the grammar and return its segments.

    Args:
        topic: What somebody wants to publish to; any object may come here.
        system: Whether the first segment may start with ``$``, as only the bus's own may.

    Returns:
        The segments, at least one.

    Raises:
        InvalidTopicError: `topic` is no string or breaks the grammar; it names the part.
    """
    segments = _split(topic, InvalidTopicError, _NOT_IN_TOPIC)
    if segments[0][0] == "$" and not system:
        raise InvalidTopicError(topic, segments[0], "starts with '$', which only the bus may use")
    return tuple(segments)


@final
class Pattern:
    """A topic with wildcards; immutable, equal and hashed by its canonical text.

    Args:
        text: The pattern as written; ``**:**`` is the same as ``**`` and becomes it.

    Attributes:
        text: The canonical text.

    Raises:
        InvalidPatternError: `text` is no string or breaks the grammar; it names the part.
    """

    __slots__ = ("_wild", "text")

    _wild: tuple[str, ...] | None  # the segments; None if exact: those are looked up, not walked
    text: str

    def __init__(self, text: str) -> None:
        segments = _split(text, InvalidPatternError, _NOT_IN_PATTERN)
        wild = None
        if "*" in text:
            segments = _collapsed(segments)
            _check_wildcards(text, [segment for segment in segments if "*" in segment])
            wild = tuple(segments)
        object.__setattr__(self, "text", ":".join(segments))
        object.__setattr__(self, "_wild", wild)

    @property
    def exact(self) -> bool:
        """Whether it has no wildcard, so that it matches one topic only: its text."""
        return self._wild is None

    @property
    def segments(self) -> tuple[str, ...]:
        """The canonical text's segments."""
        return tuple(self.text.split(":")) if self._wild is None else self._wild

    def matches(self, topic: str) -> bool:
        """Return whether the pattern matches a topic.

        Args:
            topic: A valid topic, the bus's own included; it is not checked again.
        """
        wild = self._wild
        if wild is None:
            return topic == self.text
        if topic.startswith("$") and "*" in wild[0]:
            return False
        return _matches(wild, topic.split(":"))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pattern):
            return NotImplemented
        return self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"

    def __reduce__(self) -> tuple[type[Pattern], tuple[str]]:
        return Pattern, (self.text,)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a Pattern cannot be changed: {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a Pattern cannot be changed: {name!r}")


def _split(
    text: object,
    error: type[InvalidTopicError | InvalidPatternError],
    forbidden: re.Pattern[str],
) -> list[str]:
    """Return the segments of `text`, or raise `error` for a flaw topics and patterns share."""
    if not isinstance(text, str):
        raise error(text, text, "is not a string")
    if not text:
        raise error(text, text, "is empty")
    if _is_too_long(text):
        raise error(text, text, f"is longer than {MAX_BYTES} bytes of UTF-8")
    segments = text.split(":")
    if len(segments) > MAX_SEGMENTS:
        extra = segments[MAX_SEGMENTS]
        raise error(text, extra, f"is one segment too many: at most {MAX_SEGMENTS} are allowed")
    if "" in segments:
        raise error(text, "", f"is an empty segment (number {segments.index('') + 1})")
    if forbidden.search(text) or not text.isprintable():
        raise error(text, *_forbidden_part(segments, forbidden))
    return segments


def _is_too_long(text: str) -> bool:
    """Return whether `text` takes too many bytes; a huge one is not encoded to find out."""
    if len(text) > MAX_BYTES or text.isascii():
        return len(text) > MAX_BYTES
    return len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES


def _forbidden_part(segments: list[str], forbidden: re.Pattern[str]) -> tuple[str, str]:
    """Return the first segment with a forbidden character, and what is wrong with it."""
    segment, char = next(
        (segment, char)
        for segment in segments
        for char in segment
        if forbidden.match(char) or not char.isprintable()
    )
    if char == "*":
        return segment, "holds the wildcard '*', which only a pattern may"
    return segment, f"holds {char!r}, which is not allowed"


def _collapsed(segments: list[str]) -> list[str]:
    """Return the segments with every run of ``**`` made one."""
    if segments.count("**") < 2:
        return segments
    before = [None, *segments[:-1]]
    return [s for s, previous in zip(segments, before, strict=True) if (s, previous) != ("**",) * 2]


def _check_wildcards(text: str, wildcards: list[str]) -> None:
    """Raise `InvalidPatternError` for a malformed wildcard segment, or one too many."""
    for segment in wildcards:
        if segment != "**" and segment.count("*") > 1:
            raise InvalidPatternError(text, segment, "holds more than one '*'")
    if len(wildcards) > MAX_WILDCARDS:
        reason = f"is one wildcard segment too many: at most {MAX_WILDCARDS} are allowed"
        raise InvalidPatternError(text, wildcards[MAX_WILDCARDS], reason)


def _matches(pattern: tuple[str, ...], topic: list[str]) -> bool:
    """Return whether the segments fit, ``$`` apart."""
    at = here = 0
    retry_at = retry_here = -1
    while here < len(topic):
        if at < len(pattern) and pattern[at] == "**":
            at += 1
            retry_at, retry_here = at, here
        elif at < len(pattern) and _fits(pattern[at], topic[here]):
            at += 1
            here += 1
        elif retry_at >= 0:
            retry_here += 1
            at, here = retry_at, retry_here
        else:
            return False
    return at == len(pattern) or pattern[at:] == ("**",)


def _fits(part: str, segment: str) -> bool:
    """Return whether one segment of a pattern, ``**`` apart, fits one of a topic."""
    prefix, star, suffix = part.partition("*")
    if not star:
        return part == segment
    return (
        len(segment) >= len(prefix) + len(suffix)
        and segment.startswith(prefix)
        and segment.endswith(suffix)
    )
