"""How far the server's clock is ahead of ours."""


class ClockOffset:
    """An estimate from round trips: that of the shortest one, because it leaves the least room for error.

    Attributes:
        server_ahead_us: server's clock minus ours in microseconds; 0 before the first round trip.
        round_trip_us: of the sample it rests on; None: there was none yet.
    """

    __slots__ = ("round_trip_us", "server_ahead_us")

    def __init__(self) -> None:
        self.server_ahead_us = 0
        self.round_trip_us: int | None = None

    def take(self, sent_us: int, server_time_us: int, received_us: int) -> None:
        """Take a question sent at `sent_us` and its answer; a strange server's nonsense is left out."""
        round_trip = received_us - sent_us
        if round_trip >= 0 and (self.round_trip_us is None or round_trip <= self.round_trip_us):
            self.round_trip_us = round_trip
            self.server_ahead_us = server_time_us - (sent_us + received_us) // 2
