"""Faults of the agents' connections: cut, silent, unread, slow, or with a token that runs out."""

from server.protocol.close_codes import CloseCode
from server.protocol.codec import encode
from server.protocol.messages import TokenExpiring
from simulator.fleet_fault import FleetFault, Victim
from simulator.impaired_link import ImpairedLink


class Disconnect(FleetFault):
    """Connections are cut; their agents come back by themselves."""

    def begin(self) -> None:
        """Cut."""
        for victim in self.victims:
            for link in tuple(victim.links):
                self.counts["connections"] += 1
                link.abort()


class ReconnectStorm(Disconnect):
    """Connections are cut, and all agents dial in the same instant."""

    counted = "dials"

    def begin(self) -> None:
        """Cut, and hold back every dial."""
        self._cut = [victim for victim in self.victims if victim.links]
        for victim in self.victims:
            victim.held = []
        super().begin()

    def end(self) -> None:
        """Let them all dial, those too whose back-off is not over."""
        for victim in self.victims:
            held, victim.held = victim.held, None
            for dial in held or ():
                self.counts["dials"] += 1
                dial()
        for victim in self._cut:
            self.counts["dials"] += victim.agent.dial_now()


class HalfOpen(FleetFault):
    """Connections die without a word."""

    def begin(self) -> None:
        """Nothing comes through any more."""
        for victim in self.victims:
            for link in victim.links:
                self.counts["connections"] += 1
                self.strike(link)
                link.silence()

    def end(self) -> None:
        """What nobody has given up is cut."""
        for victim in self.victims:
            for link in tuple(victim.links):
                if self in link.struck_by:
                    self.counts["cut_at_its_end"] += 1
                    link.abort()

    def closed(self, link: ImpairedLink, code: int, *, by_peer: bool) -> None:
        """Its frames are lost for good now."""
        self.counts["lost_frames"] += link.lost_frames


class UnreadAcks(FleetFault):
    """Agents do not read."""

    def begin(self) -> None:
        """Stop."""
        for victim in self.victims:
            for link in victim.links:
                self.counts["connections"] += 1
                self.strike(link)
                link.stop_reading()

    def end(self) -> None:
        """Read again, where the connection still stands."""
        for victim in self.victims:
            for link in tuple(victim.links):
                if self in link.struck_by:
                    link.read_again()

    def closed(self, link: ImpairedLink, code: int, *, by_peer: bool) -> None:
        """It did not outlast the fault."""
        if self.active:
            self.counts["lost_connections"] += 1


class SlowLink(FleetFault):
    """Connections are slow."""

    counted = "delayed_frames"

    def begin(self) -> None:
        """Slow down what stands."""
        for victim in self.victims:
            for link in victim.links:
                self._slow_down(link)

    def opened(self, victim: Victim, link: ImpairedLink) -> None:
        """New connections are slow too."""
        if self.active:
            self._slow_down(link)

    def end(self) -> None:
        """Let through what waits."""
        for victim in self.victims:
            for link in tuple(victim.links):
                self.counts["delayed_frames"] += link.speed_up()

    def closed(self, link: ImpairedLink, code: int, *, by_peer: bool) -> None:
        """It did not outlast the fault."""
        if self.active:
            self.counts["delayed_frames"] += link.speed_up()

    def _slow_down(self, link: ImpairedLink) -> None:
        self.counts["connections"] += 1
        self.strike(link)
        link.slow_down(self.fault.bytes_per_second, self.fault.latency_seconds)


class TokenExpiry(FleetFault):
    """Tokens run out under their connections."""

    counted = "expired"
    refusal = CloseCode.TOKEN_EXPIRED

    def begin(self) -> None:
        """Let the agents dial again, as they do when the server tells that their token expires."""
        for victim in self.victims:
            if victim.link is not None:
                victim.token = round(self.fault.for_seconds), self
                victim.link.on_frame(None, encode(TokenExpiring(expires_at=self.services.now_us())))

    def end(self) -> None:
        """Who has not dialled by now needs no such token."""
        for victim in self.victims:
            if victim.token is not None and victim.token[1] is self:
                victim.token = None

    def opened(self, victim: Victim, link: ImpairedLink) -> None:
        """The first one that was dialled after the fault began has the short token."""
        if self in link.struck_by:
            self.counts["short_tokens"] += 1
            victim.token = None
            link.ignores_expiry = True

    def closed(self, link: ImpairedLink, code: int, *, by_peer: bool) -> None:
        """The server noticed, or did not."""
        if self.refused(link, code, by_peer=by_peer):
            self.counts["expired"] += 1
