"""Topics and patterns: the grammar, its limits, its errors, and what matches what."""

from __future__ import annotations

import copy
import pickle
import re
from enum import Enum
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actorbus import topic as topic_module
from actorbus.errors import ConfigurationError, InvalidPatternError, InvalidTopicError
from actorbus.topic import Pattern, check_topic

FORBIDDEN = "?#>[]{}\\! "
UNPRINTABLE = "\n\t\r\0\x1b\x7f\u00a0\u2028\u3000\u200b\ud800\udfff"


class Name(str, Enum):  # noqa: UP042 - the older way, whose str() is not its value
    CREATED = "task:created"


class Unread(str):
    """A text whose characters nobody may look at, one by one or by copy."""

    __slots__ = ()

    def refuse(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("a huge text was read")

    encode = split = partition = isprintable = count = __iter__ = __contains__ = refuse


# --- topics


@pytest.mark.parametrize(
    "topic",
    [
        "a",
        "task_manager:task_created",
        "a:$b",
        "zoë:日本:🚀",
        "a-b.c/d@e=f&g%h+i,j;k'l\"m(n)|o~p^q`r<s",
        ":".join("a" * 16),
        "a" * 512,
        "é" * 256,
    ],
)
def test_topic_is_split_into_its_segments(topic: str) -> None:
    """Every topic within the limits is accepted and split at its colons."""
    assert check_topic(topic) == tuple(topic.split(":"))


def test_string_enumeration_is_a_topic() -> None:
    """A member of a string enumeration counts as its value, for topics and patterns."""
    assert check_topic(Name.CREATED) == ("task", "created")
    assert Pattern(Name.CREATED).text == "task:created"
    assert type(Pattern(Name.CREATED).text) is str


@pytest.mark.parametrize("topic", [None, 1, b"a:b", ["a"], ("a", "b"), object(), Pattern("a")])
def test_topic_must_be_a_string(topic: object) -> None:
    """What is no string is refused, named by its type."""
    with pytest.raises(InvalidTopicError, match="is not a string") as caught:
        check_topic(topic)
    assert type(topic).__name__ in caught.value.part


@pytest.mark.parametrize(
    ("topic", "part", "reason"),
    [
        ("", "", "is empty"),
        (":", "", "is an empty segment (number 1)"),
        ("a:", "", "is an empty segment (number 2)"),
        (":a", "", "is an empty segment (number 1)"),
        ("a::b", "", "is an empty segment (number 2)"),
        (":".join("a" * 16) + ":extra", "extra", "one segment too many: at most 16"),
        ("b" * 513, "b" * 79 + "…", "is longer than 512 bytes"),
        ("é" * 257, "é" * 79 + "…", "is longer than 512 bytes"),
        ("$bus:x", "$bus", "starts with '$'"),
        ("$", "$", "starts with '$'"),
    ],
)
def test_topic_beyond_a_limit_is_refused(topic: str, part: str, reason: str) -> None:
    """Each limit has its error, and the error names the part that breaks it."""
    with pytest.raises(InvalidTopicError) as caught:
        check_topic(topic)
    assert caught.value.part == repr(part)
    assert reason in caught.value.reason


@pytest.mark.parametrize("char", [*FORBIDDEN, *UNPRINTABLE])
@pytest.mark.parametrize("place", ["{}", "a:{}", "a:b{}", "a:{}b:c", "a:b{}c:d"])
def test_forbidden_character_is_named(char: str, place: str) -> None:
    """A forbidden or unprintable character is refused anywhere; segment and character are named."""
    topic = place.replace("{}", char)
    segment = next(segment for segment in topic.split(":") if char in segment)
    with pytest.raises(InvalidTopicError) as in_topic:
        check_topic(topic)
    with pytest.raises(InvalidPatternError) as in_pattern:
        Pattern(topic)
    for error in (in_topic.value, in_pattern.value):
        assert error.part == repr(segment)
        assert repr(char) in error.reason


@pytest.mark.parametrize("segment", ["*", "**", "a*", "*a", "a*b"])
def test_wildcard_is_no_topic(segment: str) -> None:
    """A wildcard of any sort makes a topic invalid, and the error says where it belongs."""
    with pytest.raises(InvalidTopicError, match="only a pattern may") as caught:
        check_topic(f"a:{segment}:b")
    assert caught.value.part == repr(segment)


def test_system_topics_are_for_the_bus_alone() -> None:
    """`system` admits a first segment starting with `$`, and nothing else that is invalid."""
    assert check_topic("$bus:dead_letter:overflow", system=True) == (
        "$bus",
        "dead_letter",
        "overflow",
    )
    for topic in ("$bus:*", "$bus::x", "$bus:a b", "$bus:" + "a" * 508):
        with pytest.raises(InvalidTopicError):
            check_topic(topic, system=True)


@pytest.mark.parametrize("size", [10_000, 10_000_000])
@pytest.mark.parametrize("unit", ["a", "a:", "*", "\n", "é", "\ud800"])
def test_huge_text_is_refused_cheaply(size: int, unit: str) -> None:
    """A text of any size is refused by its length, unread, with an error of bounded size."""
    text = Unread(unit * (size // len(unit)))
    for check in (check_topic, Pattern):
        with pytest.raises(ConfigurationError, match="is longer than 512 bytes") as caught:
            check(text)
        assert len(str(caught.value)) < 2000


def test_errors_are_configuration_and_value_errors_and_survive_pickling() -> None:
    """Both errors can be caught as ValueError, printed on any terminal and pickled."""
    for check in (check_topic, Pattern):
        with pytest.raises(ValueError, match="invalid") as caught:
            check("a:\ud800\n")
        assert isinstance(caught.value, ConfigurationError)
        assert str(caught.value).isprintable()
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301


@given(st.text(st.characters() | st.sampled_from(":*$ "), max_size=600))
def test_check_gives_segments_or_its_own_error(text: str) -> None:
    """Any text whatever is either split or refused with an `InvalidTopicError`."""
    try:
        segments = check_topic(text)
    except InvalidTopicError:
        return
    assert ":".join(segments) == text
    assert 1 <= len(segments) <= 16
    assert len(text.encode()) <= 512
    assert all(segments)
    assert text.isprintable()
    assert not set(text) & set("*?#>[]{}\\! ")
    assert not text.startswith("$")


# --- patterns


@pytest.mark.parametrize("text", ["a", "a:b", "$bus:actor", "zoë:日本"])
def test_pattern_without_wildcard_is_exact(text: str) -> None:
    """An exact pattern matches its own text and nothing else."""
    pattern = Pattern(text)
    assert pattern.exact
    assert pattern.matches(text)
    assert not pattern.matches(f"{text}:x")
    assert not pattern.matches(text[:-1] + "x")


@pytest.mark.parametrize("text", ["*", "**", "a:*", "a:**:b", "a*", "*a", "a*b:c", "$bus:**"])
def test_pattern_with_wildcard_is_not_exact(text: str) -> None:
    """Every sort of wildcard makes a pattern inexact."""
    assert not Pattern(text).exact


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        (
            "task_manager:*",
            ["task_manager:task_created"],
            ["task_manager", "task_manager:a:b", "other:task_created", "Task_manager:a"],
        ),
        ("task_manager:**", ["task_manager", "task_manager:a", "task_manager:a:b"], ["task", "x"]),
        ("**", ["a", "a:b", ":".join("a" * 16)], ["$bus", "$bus:a"]),
        ("*", ["a"], ["a:b", "$bus"]),
        ("*:b", ["a:b", "b:b"], ["b", "a:b:b", "$bus:b"]),
        ("**:b", ["b", "a:b", "a:a:b", "b:b"], ["b:a", "$bus:b", "$b"]),
        ("a:**:b", ["a:b", "a:x:b", "a:x:y:b", "a:b:b"], ["a", "b", "a:b:c"]),
        ("a:**:b:**:c", ["a:b:c", "a:c:b:c", "a:b:x:c"], ["a:c", "a:c:b"]),
        ("*:**", ["a", "a:b"], ["$bus"]),
        ("**:*", ["a", "a:b"], ["$bus", "$bus:a"]),
        ("task_*", ["task_", "task_created"], ["task", "task_a:b", "atask_"]),
        ("*_done", ["_done", "job_done"], ["done", "job_done2"]),
        ("job_*_v2", ["job__v2", "job_x_v2", "job__v2_v2"], ["job_v2", "job_v2_v", "job_x_v3"]),
        ("a*a", ["aa", "aba"], ["a"]),
        ("a:b*:**", ["a:b", "a:bc:d:e"], ["a", "a:cb"]),
        ("$bus:**", ["$bus", "$bus:actor:running"], ["bus", "$busy"]),
        ("$bus:*:stopped", ["$bus:actor:stopped"], ["$bus:stopped"]),
        ("$b*", [], ["$bus", "$b", "b"]),
        ("$*:x", [], ["$bus:x", "$:x"]),
        ("*s", ["bus"], ["$bus"]),
        ("**:$x", ["a:$x"], ["$x"]),
        ("a:$*", ["a:$x"], ["$x"]),
        ("A:b", ["A:b"], ["a:b", "A:B"]),
    ],
)
def test_what_a_pattern_matches(pattern: str, yes: list[str], no: list[str]) -> None:
    """The rules of each wildcard and of `$`, by example."""
    made = Pattern(pattern)
    assert [topic for topic in yes if not made.matches(topic)] == []
    assert [topic for topic in no if made.matches(topic)] == []


@pytest.mark.parametrize(
    ("text", "part", "reason"),
    [
        ("", "", "is empty"),
        ("a::*", "", "is an empty segment (number 2)"),
        ("a:***", "***", "more than one '*'"),
        ("a**", "a**", "more than one '*'"),
        ("**a", "**a", "more than one '*'"),
        ("a:b*c*", "b*c*", "more than one '*'"),
        ("*:*:**:a*:*b", "*b", "one wildcard segment too many: at most 4"),
        ("*:*:*:*:**", "**", "one wildcard segment too many: at most 4"),
        (":".join("a" * 16) + ":**", "**", "one segment too many: at most 16"),
        ("a" * 511 + ":*", "a" * 79 + "…", "is longer than 512 bytes"),
    ],
)
def test_invalid_pattern_is_refused(text: str, part: str, reason: str) -> None:
    """Each limit of patterns has its error, and the error names the part that breaks it."""
    with pytest.raises(InvalidPatternError) as caught:
        Pattern(text)
    assert caught.value.part == repr(part)
    assert reason in caught.value.reason


@pytest.mark.parametrize("text", [None, 7, b"a:*", ["a:*"]])
def test_pattern_must_be_a_string(text: Any) -> None:
    """What is no string is refused, named by its type."""
    with pytest.raises(InvalidPatternError, match="is not a string"):
        Pattern(text)


@pytest.mark.parametrize("text", ["*:*:*:*", "a:*:b:*:c:**:d:x*", "*:**:**:**:*:**"])
def test_four_wildcard_segments_are_allowed(text: str) -> None:
    """Four wildcard segments pass, and a run of `**` counts once."""
    assert not Pattern(text).exact


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("**:**", "**"),
        ("a:**:**:**:b", "a:**:b"),
        ("**:**:a:**:**", "**:a:**"),
        ("**:*:**", "**:*:**"),
        ("*:*", "*:*"),
        ("**:" * 15 + "a", "**:a"),
    ],
)
def test_adjacent_deep_wildcards_become_one(written: str, canonical: str) -> None:
    """A run of `**` is one `**`, in text, segments, equality and hash; nothing else changes."""
    pattern = Pattern(written)
    assert pattern.text == str(pattern) == canonical
    assert pattern.segments == tuple(canonical.split(":"))
    assert pattern == Pattern(canonical)
    assert hash(pattern) == hash(Pattern(canonical))


def test_patterns_are_values() -> None:
    """Patterns compare by text, with patterns only, and survive copying and pickling."""
    pattern = Pattern("a:*")
    assert repr(pattern) == "Pattern('a:*')"
    assert pattern != Pattern("a:**")
    assert pattern != "a:*"
    assert {pattern, Pattern("a:*")} == {pattern}
    for twin in (copy.copy(pattern), copy.deepcopy(pattern), pickle.loads(pickle.dumps(pattern))):  # noqa: S301
        assert twin == pattern
        assert (twin.segments, twin.exact) == (pattern.segments, pattern.exact)


@pytest.mark.parametrize("name", ["text", "segments", "exact", "other"])
def test_pattern_cannot_be_changed(name: str) -> None:
    """No attribute of a pattern can be set or deleted, and none can be added."""
    pattern = Pattern("a:*")
    with pytest.raises(AttributeError, match="cannot be changed"):
        setattr(pattern, name, "b")
    with pytest.raises(AttributeError, match="cannot be changed"):
        delattr(pattern, name)
    assert not hasattr(pattern, "__dict__")


def test_matching_does_not_explode(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes a backtracking matcher exponential costs at most segments x segments steps."""
    fits = topic_module._fits
    compared: list[str] = []

    def counting(part: str, segment: str) -> bool:
        compared.append(segment)
        return fits(part, segment)

    monkeypatch.setattr(topic_module, "_fits", counting)
    pattern = Pattern("**:a:a:a:**:a:a:a:**:a:a:a:**:b")
    assert not pattern.matches(":".join("a" * 16))
    assert len(compared) <= 16 * 14


def meaning(pattern: Pattern) -> re.Pattern[str]:
    """Return the grammar's own words for a pattern, on topics with `:` after each segment."""
    parts = {"*": "[^:]+:", "**": "(?:[^:]+:)*"}
    words = (
        parts.get(segment) or re.escape(segment).replace(r"\*", "[^:]*") + ":"
        for segment in pattern.segments
    )
    return re.compile(("(?![$])" if "*" in pattern.segments[0] else "") + "".join(words))


@given(
    st.lists(
        st.sampled_from(["a", "b", "$a", "*", "**", "a*", "*b", "a*a", "$*"]),
        min_size=1,
        max_size=7,
    )
    .filter(lambda parts: sum("*" in part for part in parts) <= 4)
    .map(lambda parts: Pattern(":".join(parts))),
    st.lists(
        st.sampled_from(["a", "b", "ab", "aa", "$a", "$"]),
        min_size=1,
        max_size=7,
    ).map(":".join),
)
@example(Pattern("**:a:**:b"), "a:b:a:a:b")
@example(Pattern("**:a"), "$a")
def test_matching_agrees_with_the_grammar(pattern: Pattern, topic: str) -> None:
    """`matches` says what the pattern's translation to a regular expression says."""
    assert pattern.matches(topic) == bool(meaning(pattern).fullmatch(topic + ":"))
