# SPDX-License-Identifier: Apache-2.0
"""The gate of one environment: may this connection be made? It knows rules, and opens nothing.

`dial` asks it before a name is resolved and before an address is connected to; `egress` asks again
about open connections when the rules have changed. Rules are judged by `domain.network.judging`,
addresses that are not public by `policy`. Every answer is a `Decision` that is reported once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, NamedTuple

from waggle.domain.network import PUBLIC_NETWORK, Default, Network
from waggle.domain.network.decisions import ALLOWED, SAID_NO_CODE, Decision, Ended
from waggle.domain.network.judging import Judge, Judged, Judgement, Outcome, Seen
from waggle.domain.network.questions import NOBODY, SAID_NO
from waggle.domain.network.rule_book import Judges
from waggle.domain.network.rules import Rule
from waggle.infra.net import guest_request
from waggle.infra.net.guest_request import Target
from waggle.infra.net.policy import Address, AddressPolicy
from waggle.infra.net.record import OnDecision, OnEnd

Ask = Callable[[str, int], Awaitable[str]]
"""Asks a person about a host and a port; bounded in time. Returns why not, or nothing for a yes."""
Resolve = Callable[[Target], Awaitable[Sequence[Address]]]
"""Returns the addresses of a target. Raises Refusal."""
USUAL_JUDGES: Final = Judges()
HTTPS_PORT: Final = 443
_PORTS: Final = frozenset({"port", "closed-port"})


async def nobody(_host: str, _port: int) -> str:
    """Refuse what nobody can be asked about."""
    return NOBODY


class Admitted(NamedTuple):
    """The addresses that may be connected to, in order; what allowed it; and who."""

    addresses: list[Address]
    rule: str
    asked: bool


@dataclass(frozen=True, slots=True)
class Passage:
    """A connection that was made, as it was judged."""

    target: Target
    address: Address
    seen: Seen | None = None
    asked: bool = False
    """Whether a person allowed it, so that only a rule that denies ends it."""
    rule: str = ""
    since: float = 0.0
    """By the clock of the event loop."""

    @property
    def decision(self) -> Decision:
        """The decision that allowed it."""
        host = guest_request.printable(self.target.host)
        return Decision(host, self.target.port, ALLOWED, "", self.rule, str(self.address))


@dataclass(frozen=True, slots=True)
class Reach:
    """What one environment may reach, and who is asked about the rest."""

    network: Network = PUBLIC_NETWORK
    judges: Judges = USUAL_JUDGES
    registries: Sequence[Rule] = ()
    """The rules that @packages stands for in its image."""
    ask: Ask = nobody
    owner: str = ""
    """Whose approvals count."""


class Gate:
    """Judges by the rules that the environment and the operator have now."""

    def __init__(
        self,
        reach: Reach,
        policy: AddressPolicy,
        on_decision: OnDecision,
        on_end: OnEnd = lambda _ended: None,
    ) -> None:
        """`on_decision` is called once for every decision, `on_end` for every end of a connection.

        They must not raise or wait.
        """
        self._reach = reach
        self._policy = policy
        self._on_decision = on_decision
        self._on_end = on_end
        self.network = reach.network
        self._registries = tuple(reach.registries)
        self._made_for: tuple[Network, int] | None = None
        self._judge: Judge

    def change(self, network: Network, registries: Sequence[Rule] | None = None) -> None:
        """Judge by another network from now on, and by other registries, if they are given."""
        self.network = network
        if registries is not None:
            self._registries = tuple(registries)
            self._made_for = None

    def permits_own(self, address: Address) -> bool:
        """Whether the operator lets guests reach this address of the host itself."""
        return self._policy.permits(address).allowed

    def may_look_up(self, name: str) -> bool:
        """Whether the rules let a name be looked up at all, before anybody is asked.

        Reports nothing.
        """
        result = self._rules().name(name, HTTPS_PORT, Seen()).result
        return result.outcome not in (Outcome.DENIED, Outcome.ASK) or result.code in _PORTS

    async def admit(self, target: Target, seen: Seen | None, resolve: Resolve) -> Admitted:
        """Judge the name, have it resolved, and judge its addresses.

        `seen` is the request, if the proxy sees it. Raises Refusal, also that of `resolve`.
        """
        name, asked, found = None, False, None
        while True:
            if target.address is None:
                name, asked = await self._settled(
                    target, lambda: self._rules().name(target.name, target.port, seen)
                )
            judged_by = self._rules()
            found = await resolve(target) if found is None else found
            if self._rules() is judged_by:  # else a name server took its time meanwhile
                break
        permitted: list[Address] = []
        rule, refused, is_open = "", _NOTHING, False
        for address in found:
            judge = partial(self._judged, address, target.port, seen, name)
            judgement = self._with_policy(address, judge().result)
            if judgement.outcome is Outcome.ASK:
                judged, also = await self._settled(target, judge)
                asked = asked or also
                judgement = self._with_policy(address, judged.result)
            if judgement.is_denied and refused is _NOTHING:
                refused, is_open = judgement, self._is_open(address, judge().maximum)
            elif not judgement.is_denied:
                permitted.append(address)
                rule = rule or judgement.rule
        if not permitted:
            raise self._refuse(target, refused, is_open=is_open)
        return Admitted(permitted, rule, asked)

    def passed(self, passage: Passage) -> None:
        """Report a connection that was made."""
        self._on_decision(passage.decision)

    def ended(self, passage: Passage, seconds: float, sent: int, received: int) -> None:
        """Report that it has ended, and how many bytes it carried."""
        self._on_end(Ended(passage.decision, seconds, sent, received))

    def judge_request(self, passage: Passage, seen: Seen | None) -> guest_request.Refusal | None:
        """Return why a request on an open connection may not pass. Reports nothing.

        `seen` None: may what the proxy does not see pass?
        """
        judgement = self._now(replace(passage, seen=seen))
        if judgement.outcome is Outcome.ALLOWED:
            return None
        target = passage.target
        host = guest_request.printable(target.host)
        decision = Decision(host, target.port, judgement.code, judgement.reason, judgement.rule)
        return guest_request.denied(decision, self.network)

    def still_admits(self, passage: Passage) -> bool:
        """Whether an open connection may stay, by the rules of now. Reports nothing."""
        return self._now(passage).outcome is Outcome.ALLOWED

    def _now(self, passage: Passage) -> Judgement:
        target, seen, name = passage.target, passage.seen, None
        if target.address is None:
            name = self._rules().name(target.name, target.port, seen)
            name = _allowed(name) if passage.asked else name
            if name.result.outcome in (Outcome.DENIED, Outcome.ASK):
                return name.result
        judged = self._judged(passage.address, target.port, seen, name)
        judged = _allowed(judged) if passage.asked else judged
        return self._with_policy(passage.address, judged.result)

    @property
    def has_rules(self) -> bool:
        """Whether it matters which name a connection is for, here or in the operator's maximum."""
        sides = (self.network, self._reach.judges.maximum)
        return any(side.default is not Default.PUBLIC or side.rules or side.sets for side in sides)

    def denies(self, name: str, port: int) -> bool:
        """Whether a rule denies this very name, in lower case without a dot at the end."""
        judged = self._rules().name(name, port)
        return "rule" in (judged.own.code, judged.maximum.code)

    def limited(self, target: Target, refusal: guest_request.Refusal) -> None:
        """Report that a limit refused a target."""
        self.denied(target, refusal.code, refusal.reason)

    def denied(self, target: Target, code: str, reason: str) -> None:
        """Report that something other than rules and addresses refused a target."""
        host = guest_request.printable(target.host)
        self._on_decision(Decision(host, target.port, code, reason))

    def refuse_other_name(self, target: Target, asked_for: str) -> None:
        """Report a TLS connection that asks for another name than the proxy was given."""
        other = guest_request.printable(asked_for)
        given = "another name than the proxy was given" if target.address is None else "not allowed"
        why = f"its TLS handshake asks for {other}, {given}"
        self._refuse(target, Judgement(Outcome.DENIED, "other-name", why))

    async def _settled(self, target: Target, judge: Callable[[], Judged]) -> tuple[Judged, bool]:
        """Ask if need be; return the judgement, and whether a person allowed it.

        The rules may have changed when the answer comes, so that it is judged again.
        """
        judged, asked = judge(), False
        if judged.result.outcome is Outcome.ASK:
            host = guest_request.printable(target.name)
            if why := await self._reach.ask(host, target.port):
                raise self._refuse(target, _unanswered(judged, why))
            judged = judge()
            asked = judged.result.outcome is Outcome.ASK  # else there is a rule now
            judged = _allowed(judged)
        if judged.result.is_denied:
            raise self._refuse(target, judged.result)
        return judged, asked

    def _judged(
        self, address: Address, port: int, seen: Seen | None, name: Judged | None
    ) -> Judged:
        return self._rules().address(address, port, seen, name=name)

    def _rules(self) -> Judge:
        now = self.network, self._reach.judges.version
        if self._made_for != now:
            reach = self._reach
            self._judge = reach.judges.judge(self.network, self._registries, reach.owner)
            self._made_for = now
        return self._judge

    def _with_policy(self, address: Address, judgement: Judgement) -> Judgement:
        if judgement.is_denied:
            return judgement
        verdict = self._policy.permits(address, judgement.block)
        if verdict.allowed:
            return judgement
        return Judgement(Outcome.DENIED, verdict.code, verdict.reason)

    def _is_open(self, address: Address, maximum: Judgement) -> bool:
        """Whether the operator allows an address, if a rule of the environment names it."""
        return not maximum.is_denied and self._policy.permits(address, maximum.block).allowed

    def _refuse(
        self, target: Target, judgement: Judgement, *, is_open: bool = False
    ) -> guest_request.Refusal:
        host = guest_request.printable(target.host)
        decision = Decision(
            *(host, target.port, judgement.code, judgement.reason, judgement.rule), is_open=is_open
        )
        self._on_decision(decision)
        return guest_request.denied(decision, self.network)


_NOTHING = Judgement(Outcome.DENIED, "no-address", "its name leads to no address")


def _allowed(judged: Judged) -> Judged:
    """Return what was judged with every question answered by yes."""

    def answered(judgement: Judgement) -> Judgement:
        if judgement.outcome is not Outcome.ASK:
            return judgement
        return Judgement(Outcome.ALLOWED, ALLOWED, "", "ask")

    return Judged(answered(judged.own), answered(judged.maximum))


def _unanswered(judged: Judged, why: str) -> Judgement:
    """Return the refusal of what a person did not allow.

    Where the operator's maximum asks, a rule of the environment opens nothing.
    """
    code = judged.result.code
    if why == SAID_NO:
        code = SAID_NO_CODE
    elif judged.maximum.outcome is Outcome.ASK:
        code, why = "maximum", f"{why}, and the operator's maximum (WAGGLE_MAX_NETWORK) asks"
    return replace(judged.result, code=code, reason=why)
