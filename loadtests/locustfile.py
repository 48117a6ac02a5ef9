"""Locust's entry: `locust -f loadtests/locustfile.py --host http://127.0.0.1:8000`.

Tokens are minted from `SEATRIAL_JWT_SECRET`; a viewer's may come as `SEATRIAL_USER_TOKEN`. The users are browsers, but for as
many as `SEATRIAL_OPERATORS` and the like say; `SEATRIAL_SHAPE` lets their number change (docs/verdict.md).
"""

import os

from loadtests.locust_hooks import SHAPE, shape_of
from loadtests.tokens import TokenError, user_token
from loadtests.users import (
    AuditUser,
    ChartUser,
    LogUser,
    OperatorUser,
    ReconnectingBrowser,
    SlowBrowser,
    UiSubscriber,
)

__all__ = [
    "AuditUser",
    "ChartUser",
    "LogUser",
    "OperatorUser",
    "ReconnectingBrowser",
    "SlowBrowser",
    "UiSubscriber",
]

try:
    user_token(os.environ, "loadtest")
except TokenError as error:
    raise SystemExit(f"locustfile: {error}") from None

if shape_of(os.environ.get(SHAPE)).kind != "steady":
    # Locust takes every shape that it finds here, and then leaves --users and --spawn-rate to it.
    from loadtests.users import BrowserShape

    __all__ += ["BrowserShape"]
