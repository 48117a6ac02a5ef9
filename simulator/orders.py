"""Commands on the agent's side: each is carried out at most once, and its result is told until it is acknowledged."""

from server.protocol.messages import Action, ActionOutcome, ActionReport
from simulator.host import Input
from simulator.hosts import Host
from simulator.ledger import Executed, InputRecord
from simulator.services import Services

MAX_KNOWN = 1000
"""Commands remembered at most. One more is passed over: what cannot be remembered could be carried out twice."""
_SLACK_US = 60_000_000
"""Ids are kept this much longer than their command is valid, for clocks that differ."""


class Orders:
    """The commands of one agent.

    Args:
        host: carries them out.
        services: the fleet.

    Attributes:
        untold: ids of results that the server has not been told on the present connection.
        changed: refs of containers whose state the server does not know yet.
    """

    __slots__ = ("_host", "_known", "_results", "_services", "changed", "untold")

    def __init__(self, host: Host, services: Services) -> None:
        self._host, self._services = host, services
        self._known: dict[str, int] = {}
        self._results: dict[str, ActionReport] = {}
        self.untold: set[str] = set()
        self.changed: set[int] = set()

    def take(self, action: Action, server_now_us: int) -> float | None:
        """Judge a command by the server's clock, and remember it.

        Returns:
            Seconds after which to `execute` it; None: not at all.
        """
        counts = self._services.counts
        action_id = action.action_id
        if action_id in self._known:
            counts.actions_repeated += 1
            if action_id in self._results:
                self.untold.add(action_id)
            return None
        if len(self._known) >= MAX_KNOWN:
            self._forget(server_now_us)
            if len(self._known) >= MAX_KNOWN:
                counts.actions_refused += 1
                return None
        self._known[action_id] = action.expires_at
        if server_now_us > action.expires_at:
            counts.actions_expired += 1
            self._finish(action_id, "expired")
            return None
        return self._host.handling(action_id).seconds

    def execute(self, action: Action, tick: int) -> None:
        """Carry out a command that `take` let pass; it shows from the tick after `tick` on."""
        services, host = self._services, self._host
        refusal, changed = host.handling(action.action_id).refusal, False
        if not refusal:
            try:
                changed = host.apply(Input(tick, action.ref, action.kind))
            except KeyError:
                refusal = f"ref = {action.ref}: no such container"
        if refusal:
            services.counts.actions_failed += 1
            self._finish(action.action_id, "failed", refusal)
            return
        services.counts.actions_executed += 1
        services.record(Executed(agent=host.agent, action_id=action.action_id))
        if changed:
            services.record(InputRecord(agent=host.agent, tick=tick, ref=action.ref, kind=action.kind))
            self.changed.add(action.ref)
        self._finish(action.action_id, "succeeded")

    def result(self, action_id: str) -> ActionReport | None:
        """A result that is not acknowledged yet; None: there is none."""
        return self._results.get(action_id)

    def acknowledged(self, action_id: str) -> None:
        """Stop telling this result. Unknown ids are of no interest."""
        self._results.pop(action_id, None)
        self.untold.discard(action_id)

    def retell(self) -> tuple[ActionReport, ...]:
        """Every result not acknowledged, oldest first; a new connection begins with them, and they are told anew."""
        self.untold.update(self._results)
        self.changed.clear()
        return tuple(self._results.values())

    def _finish(self, action_id: str, outcome: ActionOutcome, detail: str = "") -> None:
        self._results[action_id] = ActionReport(
            action_id=action_id,
            outcome=outcome,
            finished_at=self._services.now_us() + self._host.clock.newest_us,
            detail=detail,
        )
        self.untold.add(action_id)

    def _forget(self, server_now_us: int) -> None:
        """Forget what is long expired and told: should it come again, it would be answered `expired`."""
        for action_id, expires_at in tuple(self._known.items()):
            if expires_at + _SLACK_US < server_now_us and action_id not in self._results:
                del self._known[action_id]
