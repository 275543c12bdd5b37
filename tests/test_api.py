"""The face: the names, the words and the error tree that the contract promises."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Iterator
from enum import StrEnum
from importlib.resources import files
from typing import Any

import pytest

import actorbus
from actorbus import errors

# Every name of the contract that has no module path.
PROMISED = {
    "Actor", "ActorState", "DeadLetter", "DeadReason", "Directive", "DrainReport", "Event",
    "EventBus", "Outcome", "Overflow", "Receipt", "Reject", "RestartPolicy", "RetryAfter",
    "RetryPolicy", "Subscription", "event_bus",
    "ActorBusError", "AskFailedError", "AskTimeoutError", "BusClosedError", "BusNotRunningError",
    "ConfigurationError", "DeadlockError", "InvalidPatternError", "InvalidTopicError",
    "JournalCorruptError", "JournalError", "JournalFullError", "JournalLockedError",
    "MailboxFullError", "NoResponderError", "PayloadError", "Transaction", "TransactionError",
    "TransportError",
}  # fmt: skip

WORDS = {
    "DeadReason": (
        "rejected retries_exhausted invalid_payload timeout_ignored poison interrupted overflow "
        "overflow_timeout stalled deadlock max_hops stopped suspended loop_closed drain_timeout "
        "commit_failed checksum"
    ),
    "ActorState": "starting running restarting suspended stopping stopped",
    "Outcome": "acked dead conflated",
    "Overflow": "block drop_new drop_old latest fail",
    "Directive": "resume restart stop escalate",
    "Strategy": "one_for_one one_for_all rest_for_one",
    "GiveUp": "suspend stop raise",
    "Guarantee": "at_least_once at_most_once",
    "Jitter": "full none",
}

TREE: dict[str, set[type[BaseException]]] = {
    "ActorBusError": {Exception},
    "ConfigurationError": {errors.ActorBusError, ValueError},
    "InvalidTopicError": {errors.ActorBusError, ValueError},
    "InvalidPatternError": {errors.ActorBusError, ValueError},
    "BusNotRunningError": {errors.ActorBusError},
    "BusClosedError": {errors.ActorBusError},
    "MailboxFullError": {errors.ActorBusError},
    "DeadlockError": {errors.ActorBusError},
    "NoResponderError": {errors.ActorBusError},
    "AskTimeoutError": {errors.ActorBusError, TimeoutError},
    "AskFailedError": {errors.ActorBusError},
    "PayloadError": {errors.ActorBusError},
    "JournalError": {errors.ActorBusError},
    "JournalFullError": {errors.JournalError},
    "JournalCorruptError": {errors.JournalError},
    "JournalLockedError": {errors.JournalError},
    "TransactionError": {errors.ActorBusError},
    "TransportError": {errors.ActorBusError},
}

MADE: list[Exception] = [
    actorbus.ActorBusError("text"),
    actorbus.ConfigurationError("text"),
    actorbus.InvalidTopicError("a::b", "", "is empty"),
    actorbus.InvalidPatternError("a::b", "", "is empty"),
    actorbus.BusNotRunningError("shop"),
    actorbus.BusNotRunningError("shop", forked=True),
    actorbus.BusClosedError("shop", draining=True),
    actorbus.MailboxFullError("mail", 5),
    actorbus.DeadlockError(("a", "b"), "ask"),
    actorbus.NoResponderError("a:b"),
    actorbus.AskTimeoutError("a:b", 1.5),
    actorbus.AskFailedError("a:b", "mail", "poison"),
    actorbus.PayloadError("a:b", "copy"),
    actorbus.JournalError("text"),
    actorbus.JournalFullError("text"),
    actorbus.JournalCorruptError("text"),
    actorbus.JournalLockedError("text"),
    actorbus.TransactionError("SELECT", "wrong"),
    actorbus.TransportError("text"),
    actorbus.Reject("text"),
    actorbus.RetryAfter(2.5, "busy"),
]


def public() -> Iterator[tuple[str, Any]]:
    """Yield everything `__all__` names that has a docstring of its own, members included."""
    for name in actorbus.__all__:
        value = getattr(actorbus, name)
        if not inspect.isclass(value):
            value = type(value)
        yield name, value
        for member, raw in vars(value).items():
            inner = getattr(raw, "__func__", raw)
            if not member.startswith("_") and (
                inspect.isfunction(inner) or isinstance(inner, property)
            ):
                yield f"{name}.{member}", inner


def test_all_is_sorted_and_complete() -> None:
    """`__all__` is sorted, names each thing once, and everything in it is there."""
    names = actorbus.__all__

    assert names == sorted(set(names))
    assert [name for name in names if not hasattr(actorbus, name)] == []


def test_every_promised_name_is_on_the_face() -> None:
    """Every name of the contract without a module path is importable from `actorbus`."""
    assert PROMISED - set(actorbus.__all__) == set()


def test_everything_on_the_face_is_exported_on_purpose() -> None:
    """No public name of the face but a module is missing in `__all__`."""
    names = {name for name, value in vars(actorbus).items() if not name.startswith("_")
             and not inspect.ismodule(value)}  # fmt: skip

    assert names - set(actorbus.__all__) - {"annotations"} == set()


def test_the_package_is_typed() -> None:
    """The package carries the marker of PEP 561."""
    assert files("actorbus").joinpath("py.typed").is_file()


def test_the_ready_bus_is_named_default() -> None:
    """`from actorbus import event_bus` is a bus named `default`."""
    assert isinstance(actorbus.event_bus, actorbus.EventBus)
    assert actorbus.event_bus.name == "default"


@pytest.mark.parametrize("name", sorted(WORDS))
def test_the_words_are_those_of_the_contract(name: str) -> None:
    """The members of an enumeration are its words, in any order, and equal their strings."""
    enumeration = getattr(actorbus, name)

    assert issubclass(enumeration, StrEnum)
    assert sorted(enumeration) == sorted(WORDS[name].split())
    assert all(str(member) == member for member in enumeration)


def test_every_enumeration_is_checked() -> None:
    """No enumeration on the face is missing in the list above."""
    found = {
        name
        for name in actorbus.__all__
        if inspect.isclass(value := getattr(actorbus, name)) and issubclass(value, StrEnum)
    }

    assert found == WORDS.keys()


@pytest.mark.parametrize("name", sorted(TREE))
def test_errors_form_one_tree(name: str) -> None:
    """An error is an `ActorBusError`, and the built-in it stands for where there is one."""
    error = getattr(actorbus, name)

    assert issubclass(error, actorbus.ActorBusError)
    assert [base for base in TREE[name] if not issubclass(error, base)] == []


def test_every_error_is_in_the_tree() -> None:
    """No exception of `actorbus.errors` is missing in the tree, on the face or below."""
    found = {
        name for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, Exception)
    }  # fmt: skip

    assert found == TREE.keys()
    assert {type(error).__name__ for error in MADE} == TREE.keys() | {"Reject", "RetryAfter"}


@pytest.mark.parametrize("error", MADE, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickling(error: Exception) -> None:
    """A pickled error comes back with its class, its text and its fields."""
    twin = pickle.loads(pickle.dumps(error))  # noqa: S301 made here

    assert type(twin) is type(error)
    assert str(twin) == str(error)
    assert twin.args == error.args
    assert vars(twin) == vars(error)


@pytest.mark.parametrize("name", [name for name, _ in public()])
def test_everything_public_has_a_docstring(name: str) -> None:
    """Every class on the face, and every public method of it, says what it does."""
    documented = dict(public())[name]

    assert inspect.getdoc(documented)
    assert (inspect.getdoc(documented) or "").splitlines()[0].strip()


@pytest.mark.parametrize("name", [name for name, _ in public() if "." in name])
def test_every_argument_is_typed(name: str) -> None:
    """Every public method has annotations for its arguments and its result."""
    member = dict(public())[name]
    function: Any = member.fget if isinstance(member, property) else member

    signature = inspect.signature(function)
    bare = [p.name for p in signature.parameters.values() if p.annotation is p.empty]

    assert [each for each in bare if each not in ("self", "cls")] == []
    assert signature.return_annotation is not signature.empty
