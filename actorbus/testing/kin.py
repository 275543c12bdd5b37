"""Kin: who is to restart with whom, worked out from the contract alone.

A failure is answered the moment its letter is buried: by then the model says who becomes
restarting or suspended, and every change of state has to be one that was expected.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import dropwhile
from typing import Any

from actorbus.testing.books import Book
from actorbus.words import ActorState, Directive, GiveUp, Strategy

ENDED = (ActorState.STOPPING, ActorState.STOPPED)
LEFT_ALONE = (*ENDED, ActorState.SUSPENDED)


@dataclass(eq=False)
class Budget:
    """So many restarts within so many seconds."""

    limit: int
    within: float
    times: list[float] = field(default_factory=list)

    def spend(self, now: float) -> bool:
        """Take one; return whether there was one left in the window that ends now."""
        self.times = [at for at in self.times if now - at <= self.within]
        if len(self.times) >= self.limit:
            return False
        self.times.append(now)
        return True


@dataclass(eq=False)
class Member:
    """One actor's place in the tree."""

    book: Book
    parent: Node
    budget: Budget | None = None
    acked_before: int = 0


@dataclass(eq=False)
class Node:
    """One supervisor."""

    parent: Node | None
    strategy: Strategy
    budget: Budget
    children: list[Node | Member] = field(default_factory=list)

    def members(self) -> list[Member]:
        """Return the actors below, in order of start."""
        found: list[Member] = []
        for child in self.children:
            found += [child] if isinstance(child, Member) else child.members()
        return found


class Kin:
    """The tree of a bus, and what is expected of it.

    Attributes:
        exact: Whether every failure of an actor can be seen; one in ``on_start`` cannot.
        expected: Per name, the states it has to enter in this very step.
        allowed: Those it may.
    """

    def __init__(self) -> None:
        self.root = Node(None, Strategy.ONE_FOR_ONE, Budget(0, 1.0))
        self.exact = True
        self.expected: dict[str, ActorState] = {}
        self.allowed: dict[str, ActorState] = {}
        self._nodes: dict[Any, Node] = {}
        self._members: dict[Book, Member] = {}

    def add_supervisor(
        self, it: Any, parent: Any, strategy: Any, max_restarts: int, within: float
    ) -> None:
        """Add a supervisor of the bus under another."""
        above = self._nodes.get(parent, self.root)
        node = Node(above, Strategy(strategy), Budget(max_restarts, within))
        above.children.append(node)
        self._nodes[it] = node

    def add(self, book: Book, parent: Any) -> None:
        """Add an actor under a supervisor of the bus."""
        node = self._nodes.get(parent, self.root)
        member = self._members[book] = Member(book, node)
        node.children.append(member)

    def dismiss(self, book: Book) -> None:
        """Take out an actor that ends: it restarts with its siblings no more."""
        member = self._members[book]
        if member in member.parent.children:
            member.parent.children.remove(member)

    def probed(self, book: Book) -> None:
        """Take note that a suspended actor tries a delivery, on a new instance."""
        self._members[book].acked_before = book.heard

    def failed(self, book: Book, now: float) -> None:
        """Work out what a failure leads to."""
        if book.state in ENDED or book.state is ActorState.RESTARTING:
            return
        if book.state is ActorState.SUSPENDED:
            self.allowed[book.name] = ActorState.SUSPENDED
            return
        member = self._members[book]
        match self._directive(book):
            case Directive.STOP:
                self.expected[book.name] = ActorState.STOPPING
            case Directive.ESCALATE:
                self._escalate(member.parent, member, member, now)
            case Directive.RESTART:
                if self._spend(member, now):
                    self._restart(member.parent, member)
                else:
                    self._escalate(member.parent, member, member, now)

    def entered(self, book: Book, state: ActorState) -> str | None:
        """Take note of a change of state; return what is wrong with it."""
        known = self.expected.pop(book.name, None) or self.allowed.pop(book.name, None)
        before, book.state = book.state, state
        member = self._members[book]
        if state is ActorState.RUNNING:
            if before is ActorState.SUSPENDED:  # its probe was acked
                member.budget = None
            else:
                member.acked_before = book.heard
        if state not in (ActorState.RESTARTING, ActorState.SUSPENDED) or known is state:
            return None
        if not self.exact:
            return None
        wanted = f"it was to become {known}" if known else "no failure asks for that"
        return f"{book.name!r} became {state}, but {wanted}"

    def overdue(self) -> str | None:
        """Return what should have happened by now and has not."""
        late = ", ".join(
            f"{name!r} has not become {state}" for name, state in self.expected.items()
        )
        self.expected.clear()
        self.allowed.clear()
        return late if self.exact and late else None

    def _directive(self, book: Book) -> Directive:
        chosen = book.options.on_failure
        if isinstance(chosen, Directive):
            return chosen
        if chosen is not None:
            self.exact = False  # it may say anything
        return Directive.RESTART if book.actor else Directive.RESUME

    def _spend(self, member: Member, now: float) -> bool:
        if member.book.heard > member.acked_before:
            return True
        if member.budget is None:
            policy = member.book.options.restart
            member.budget = Budget(policy.max_restarts, policy.within)
        return member.budget.spend(now)

    def _escalate(self, node: Node, member: Member, child: Node | Member, now: float) -> None:
        if node.parent is None:
            stops = member.book.options.restart.on_give_up is GiveUp.STOP
            state = ActorState.STOPPING if stops else ActorState.SUSPENDED
            self.expected[member.book.name] = state
        elif node.budget.spend(now):
            member.budget = None
            self._restart(node, child)
        else:
            self._escalate(node.parent, member, node, now)

    def _restart(self, node: Node, child: Node | Member) -> None:
        chosen: list[Node | Member] = [child]
        if child in node.children:
            if node.strategy is Strategy.ONE_FOR_ALL:
                chosen = [*node.children]
            elif node.strategy is Strategy.REST_FOR_ONE:
                chosen = [*dropwhile(lambda each: each is not child, node.children)]
        for each in chosen:
            for member in [each] if isinstance(each, Member) else each.members():
                if member.book.state not in LEFT_ALONE:
                    self.expected[member.book.name] = ActorState.RESTARTING
