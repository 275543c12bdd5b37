"""How a handler is called: the payload, the event, or the payload converted and checked."""

from __future__ import annotations

import asyncio
import functools
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypedDict
from unittest.mock import AsyncMock, Mock

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorbus import ActorState, ConfigurationError, DeadReason, Event, EventBus, Outcome
from actorbus.handler import InvalidPayload, describe, inspect_handler, same_handler


@dataclass
class Point:
    x: int
    y: int = 0


class Login(msgspec.Struct):
    user_id: int
    via: str = "web"


class Row(TypedDict):
    user_id: int


class Model(pydantic.BaseModel):
    user_id: int = pydantic.Field(gt=0)


class Picky(msgspec.Struct):
    n: int

    def __post_init__(self) -> None:
        if self.n < 0:
            raise ValueError("n is negative")


async def payload(data: Any) -> Any: ...
async def bare(data): ...  # type: ignore[no-untyped-def]  # no annotation is the point
async def event(data: Event) -> Any: ...
async def point(data: Point) -> Any: ...
async def login(data: Login) -> Any: ...
async def row(data: Row) -> Any: ...
async def model(data: Model) -> Any: ...
async def picky(data: Picky) -> Any: ...
async def number(data: int) -> Any: ...
async def mapping(data: dict[str, int]) -> Any: ...


def receiver(like: Any) -> tuple[list[Any], Any]:
    """Return a list and a handler annotated as another one, which fills it."""
    got: list[Any] = []

    async def receive(data: Any) -> None:
        got.append(data)

    receive.__annotations__ = dict(like.__annotations__)
    return got, receive


# -- what it gets -------------------------------------------------------------------------------


@pytest.mark.parametrize("like", [payload, bare, number, mapping])
async def test_the_handler_gets_the_payload_as_it_is(bus: EventBus, like: Any) -> None:
    """Without an annotation of a type to convert to, the payload comes untouched."""
    got, handler = receiver(like)
    bus.subscribe("a", handler)
    data = {"x": object()}
    await bus.publish("a", data).settled()
    assert got[0] is data


async def test_a_parameter_annotated_event_gets_the_event(bus: EventBus) -> None:
    """Annotated `Event` it gets the very event of the receipt."""
    got, handler = receiver(event)
    bus.subscribe("a", handler)
    receipt = bus.publish("a", 1)
    await receipt.settled()
    assert got == [receipt.event]
    assert got[0] is receipt.event


async def test_the_annotation_decides_in_every_form_of_handler(bus: EventBus) -> None:
    """Methods, partials, callable objects and plain functions are annotated alike."""
    got: list[Any] = []

    class Form:
        async def method(self, event: Event) -> None:
            got.append(event)

        async def __call__(self, event: Event) -> None:
            got.append(event)

        @staticmethod
        def plain(event: Event) -> None:
            got.append(event)

        @classmethod
        async def of_class(cls, event: Event) -> None:
            got.append(event)

    async def partly(prefix: str, event: Event, *, more: int = 0) -> None:
        got.append(event)

    form = Form()
    handlers: list[Any] = [
        form.method, form, Form.plain, form.plain, Form.of_class, functools.partial(partly, "x"),
        functools.partial(partly, "x", more=1), functools.partial(form),
    ]  # fmt: skip
    for handler in handlers:
        bus.subscribe("a", handler)
    receipt = bus.publish("a", 1)
    await receipt.settled()
    assert len(got) == len(handlers)
    assert all(each is receipt.event for each in got)


@pytest.mark.parametrize(
    ("like", "data", "expected"),
    [
        (point, {"x": 1, "y": 2}, Point(1, 2)),
        (point, {"x": 1}, Point(1, 0)),
        (login, {"user_id": 1}, Login(1, "web")),
        (login, {"user_id": 1, "via": "app", "extra": True}, Login(1, "app")),
        (row, {"user_id": 1}, {"user_id": 1}),
        (model, {"user_id": 1}, Model(user_id=1)),
        (picky, {"n": 1}, Picky(1)),
    ],
)
async def test_a_payload_is_converted_to_the_annotation(
    bus: EventBus, like: Any, data: Any, expected: Any
) -> None:
    """A dict that fits becomes the dataclass, Struct, TypedDict or pydantic model."""
    got, handler = receiver(like)
    bus.subscribe("a", handler)
    assert (await bus.publish("a", data).settled()).ok
    assert got == [expected]
    assert type(got[0]) is type(expected)


@pytest.mark.parametrize("like", [point, login, model])
async def test_a_payload_of_the_very_type_is_passed_as_it_is(bus: EventBus, like: Any) -> None:
    """An instance of the annotated type needs no conversion."""
    given_one = {point: Point(1, 2), login: Login(1), model: Model(user_id=1)}[like]
    got, handler = receiver(like)
    bus.subscribe("a", handler)
    await bus.publish("a", given_one).settled()
    assert got[0] is given_one


@pytest.mark.parametrize(
    ("like", "data"),
    [
        (point, {"x": "one"}), (point, {}), (point, None), (login, {"user_id": "1"}), (login, []),
        (row, {"user": 1}), (row, {"user_id": "x"}), (model, {"user_id": 0}), (model, "text"),
        (picky, {"n": -1}),
    ],
)  # fmt: skip
async def test_a_payload_that_does_not_fit_is_a_dead_letter(
    bus: EventBus, like: Any, data: Any
) -> None:
    """It is dead (invalid_payload), with the cause, not retried, and no failure of the actor."""
    got, handler = receiver(like)
    judged: list[Any] = []

    def on_failure(error: BaseException, event: Event | None) -> str:
        judged.append(error)
        return "stop"

    sub = bus.subscribe("a", handler, name="strict", on_failure=on_failure)
    loop = asyncio.get_running_loop()
    result = await bus.publish("a", data).settled()
    assert loop.time() == 0
    assert result.outcomes == {"strict": Outcome.DEAD}
    [letter] = bus.dead_letters
    assert letter.reason is DeadReason.INVALID_PAYLOAD
    assert letter.error is not None
    assert (got, judged, sub.state) == ([], [], ActorState.RUNNING)


async def test_an_invalid_payload_harms_no_other_and_not_the_next(bus: EventBus) -> None:
    """Others get the payload all the same, and the strict handler gets the next one."""
    got, handler = receiver(point)
    lenient, other = receiver(payload)
    bus.subscribe("a", handler)
    bus.subscribe("a", other)
    for data in ({"x": 1}, "bad", {"x": 2}):
        bus.publish("a", data)
    await bus.settle()
    assert got == [Point(1), Point(2)]
    assert lenient == [{"x": 1}, "bad", {"x": 2}]


@given(st.one_of(st.none(), st.integers(), st.text(), st.dictionaries(st.text(), st.integers())))
def test_conversion_never_passes_anything_but_the_type(data: Any) -> None:
    """Whatever the payload, what comes out of a conversion is of the annotated type."""
    convert = inspect_handler(login).convert
    assert convert is not None
    try:
        made = convert(data)
    except InvalidPayload:
        return
    assert isinstance(made, Login)


async def test_a_plain_handler_s_payload_is_converted_too(bus: EventBus) -> None:
    """In a thread and inline the annotation means the same."""
    got: list[Any] = []

    def plain(data: Point) -> None:
        got.append(data)

    bus.subscribe("a", plain)
    bus.subscribe("a", plain, inline=True)
    for data in ({"x": 1}, "bad"):
        bus.publish("a", data)
    await bus.settle()
    assert got == [Point(1), Point(1)]
    assert {letter.reason for letter in bus.dead_letters} == {DeadReason.INVALID_PAYLOAD}
    assert len(bus.dead_letters) == 2


# -- refused when it subscribes -----------------------------------------------------------------


async def no_argument() -> None: ...
async def two_arguments(one: Any, two: Any) -> None: ...
async def keyword_only(*, data: Any) -> None: ...
async def needs_keyword(data: Any, *, other: Any) -> None: ...
async def unknown(data: Nowhere) -> None: ...  # type: ignore[name-defined] # noqa: F821 the point
def generates(data: Any) -> Any:
    yield data


async def generates_async(data: Any) -> Any:
    yield data


@pytest.mark.parametrize("handler", [no_argument, two_arguments, keyword_only, needs_keyword])
async def test_a_handler_that_does_not_take_one_argument_is_refused(
    bus: EventBus, handler: Any
) -> None:
    """It is a ConfigurationError at once, naming the handler."""
    with pytest.raises(ConfigurationError, match=f"{handler.__name__}.*one argument"):
        bus.subscribe("a", handler)
    with pytest.raises(ConfigurationError, match=handler.__name__):
        bus.subscribe("a")(handler)
    assert bus.get_stats()["subscriptions"] == 0


async def test_an_annotation_that_cannot_be_resolved_is_refused(bus: EventBus) -> None:
    """It is a ConfigurationError at once, naming handler and annotation."""
    with pytest.raises(ConfigurationError, match=r"unknown.*Nowhere"):
        bus.subscribe("a", unknown)


@pytest.mark.parametrize("handler", [generates, generates_async])
async def test_a_generator_is_refused(bus: EventBus, handler: Any) -> None:
    """A generator function would never run: a ConfigurationError."""
    with pytest.raises(ConfigurationError, match="generator"):
        bus.subscribe("a", handler)


@pytest.mark.parametrize("handler", [5, "name", object()])
async def test_what_is_not_callable_is_refused(bus: EventBus, handler: Any) -> None:
    """A handler that cannot be called is a ConfigurationError."""
    with pytest.raises(ConfigurationError, match="callable"):
        bus.subscribe("a", handler)


@pytest.mark.parametrize(
    "handler",
    [
        lambda data: None, lambda data, more=1: None, lambda *data: None, lambda data, **more: None,
        [].append, functools.partial(two_arguments, 1),
    ],
)  # fmt: skip
def test_what_can_take_one_argument_is_taken(handler: Any) -> None:
    """Defaults, `*args`, partials and built-in methods take one argument too."""
    inspect_handler(handler)


class Methods:
    async def event(self, data: Event) -> None: ...
    def nothing(self) -> None: ...
    async def two(self, data: Any, more: Any) -> None: ...
    def optional(self, data: Login, more: int = 1) -> None: ...
    @classmethod
    async def of_the_class(cls, data: Event) -> None: ...
    @staticmethod
    def of_nobody(data: Point) -> None: ...
    def all_of_them(*everything: Any) -> None: ...


def found(handler: Any) -> Any:
    """Return what is found of a handler, or that it is refused."""
    try:
        signature = inspect_handler(handler)
    except ConfigurationError:
        return None
    return signature.is_async, signature.wants_event, signature.convert is None


@pytest.mark.parametrize(
    "handler",
    [
        payload, bare, event, point, model, number, no_argument, two_arguments, keyword_only,
        needs_keyword, unknown, generates, generates_async, Methods().event, Methods().nothing,
        Methods().two, Methods().optional, Methods().of_the_class, Methods.of_nobody,
        Methods().all_of_them, Methods.event,
        lambda: None, lambda data, /: None, lambda data, /, more=1: None, lambda data, more: None,
        lambda *data: None, lambda **data: None, lambda data, *, more=1: None,
    ],
)  # fmt: skip
def test_the_code_object_says_what_inspect_says(handler: Any) -> None:
    """A plain function is found to be what it is as a partial, which takes `inspect` to tell."""
    assert found(handler) == found(functools.partial(handler))


def test_a_wrapper_is_called_as_what_it_wraps() -> None:
    """A wrapper that takes anything is called as its `__wrapped__` says."""

    @functools.wraps(event)
    async def wrapper(*args: Any, **options: Any) -> Any:
        return await event(*args, **options)

    assert inspect_handler(wrapper).wants_event


def test_each_subscription_looks_at_the_handler_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an annotation names may change between two subscriptions, as in a notebook."""
    assert inspect_handler(login).convert is not None
    monkeypatch.setitem(globals(), "Login", Event)
    assert inspect_handler(login).wants_event
    monkeypatch.setitem(login.__annotations__, "data", "Any")
    assert found(login) == (True, False, True)


def test_a_local_annotation_is_resolved() -> None:
    """A type known only to the enclosing function resolves if the handler closes over it."""

    @dataclass
    class Local:
        n: int

    async def handler(data: Local) -> None:
        assert data == Local(1)

    convert = inspect_handler(handler).convert
    assert convert is not None
    assert convert({"n": 1}) == Local(1)


def test_a_handler_may_close_over_itself() -> None:
    """A function that names itself, so that its own cell is empty yet, is resolved all the same."""
    seen = []

    def decorate(function: Any) -> Any:
        seen.append(inspect_handler(function))
        return function

    @decorate
    async def handler(event: Event) -> None:
        assert handler

    assert seen[0].wants_event


# -- asynchronous or plain ----------------------------------------------------------------------


async def test_a_mock_is_a_handler(bus: EventBus) -> None:
    """`AsyncMock` runs on the loop and `Mock` in a thread, as what they stand for would."""
    on_loop, in_thread = AsyncMock(), Mock()
    bus.subscribe("a", on_loop)
    bus.subscribe("a", in_thread)
    assert (await bus.publish("a", 1).settled()).ok
    on_loop.assert_awaited_once_with(1)
    in_thread.assert_called_once_with(1)


async def test_a_plain_function_that_returns_a_coroutine_is_told_so(bus: EventBus) -> None:
    """Nobody would await it: the delivery fails with an error that says what to do."""

    async def inner(data: Any) -> None: ...

    def outer(data: Any) -> Any:
        return inner(data)

    for inline in (True, False):
        bus.subscribe("a", outer, inline=inline, guarantee="at_most_once")
    await bus.publish("a").settled()
    assert len(bus.dead_letters) == 2
    assert all("async def" in str(letter.error) for letter in bus.dead_letters)


async def test_async_handlers_run_on_the_loop(bus: EventBus) -> None:
    """An `async def` runs on the bus's loop, a plain one does not, unless inline."""
    loops: dict[str, Any] = {}

    def running() -> Any:
        try:
            return asyncio.get_running_loop()
        except RuntimeError:
            return None

    async def on_loop(data: Any) -> None:
        loops["async"] = running()

    def in_thread(data: Any) -> None:
        loops["plain"] = running()

    def inline(data: Any) -> None:
        loops["inline"] = running()

    bus.subscribe("a", on_loop)
    bus.subscribe("a", in_thread)
    bus.subscribe("a", inline, inline=True)
    await bus.publish("a").settled()
    here = asyncio.get_running_loop()
    assert loops == {"async": here, "plain": None, "inline": here}


async def test_the_handlers_of_an_actor_share_its_one_context(bus: EventBus) -> None:
    """A context variable set by one delivery is seen by the next, and by nobody else."""
    variable: ContextVar[int] = ContextVar("variable", default=0)
    seen: list[int] = []
    other: list[int] = []

    async def count(data: Any) -> None:
        seen.append(variable.get())
        variable.set(variable.get() + 1)
        if data == "fail" and len(seen) < 3:
            raise ValueError

    async def look(data: Any) -> None:
        other.append(variable.get())

    bus.subscribe("a", count)
    bus.subscribe("a", look)
    for data in ("go", "fail", "go"):
        variable.set(100)
        await bus.publish("a", data).settled()
    assert seen == [0, 1, 2, 3]
    assert other == [0, 0, 0]
    assert variable.get() == 100


# -- identity -----------------------------------------------------------------------------------


def test_describe_is_module_and_qualname() -> None:
    """The default name of a handler is `module.qualname`, whatever wraps it."""
    assert describe(payload) == f"{__name__}.payload"
    assert describe(functools.partial(functools.partial(payload))) == f"{__name__}.payload"
    assert describe(Model.model_dump).endswith("BaseModel.model_dump")


def test_same_handler_compares_what_is_called() -> None:
    """Equal methods and partials of the same call are one handler; others are not."""
    items: list[int] = []
    assert same_handler(items.append, items.append)
    assert not same_handler(items.append, [].append)
    assert not same_handler(payload, functools.partial(payload))
    assert same_handler(
        functools.partial(two_arguments, one=1), functools.partial(two_arguments, one=1)
    )
    assert not same_handler(
        functools.partial(two_arguments, one=1), functools.partial(two_arguments, one=2)
    )
