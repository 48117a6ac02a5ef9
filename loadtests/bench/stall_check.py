"""Whether neighbours really stalled in a half of `bench fanout`: without that, it says nothing about them."""

from loadtests.bench.receivers_plan import Received
from server.protocol.close_codes import CloseCode

GIVEN_UP = frozenset({str(int(CloseCode.SLOW_CONSUMER)), "1006"})
"""What a stalled neighbour finds when it reads on: the server's close, or that the connection ended with nothing read."""
OTHERWISE = 0.1
"""Share of the stalls that may end in another way: on a busy machine the server gives a socket up a little late."""


def stall_failures(received: Received, closed_slow: float, half: str) -> list[str]:
    """Why a half with stalled neighbours was none; empty: it was.

    Args:
        received: in that half.
        closed_slow: live sockets that the server closed with 4008 while it was measured.
        half: its name, for people.
    """
    found = []
    if not received.stalls:
        found.append(f"{half}: no neighbour stopped reading")
    elif not closed_slow:
        found.append(f"{half}: the server closed no stalled neighbour with {int(CloseCode.SLOW_CONSUMER)}")
    ends = sum(received.stall_ends.values())
    other = {end: count for end, count in sorted(received.stall_ends.items()) if end not in GIVEN_UP}
    if sum(other.values()) > OTHERWISE * ends:
        told = ", ".join(f"{end} {count}" for end, count in other.items())
        found.append(f"{half}: of {ends} stalls too many did not end with the server giving up: {told}")
    return found
