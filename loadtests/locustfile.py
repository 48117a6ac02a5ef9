"""Locust's entry: `locust -f loadtests/locustfile.py --host http://127.0.0.1:8000`.

Tokens are minted from `SEATRIAL_JWT_SECRET`; a viewer's may come as `SEATRIAL_USER_TOKEN`. The users are browsers, but for as
many as `SEATRIAL_OPERATORS`, `SEATRIAL_CHART_READERS`, `SEATRIAL_LOG_DOWNLOADERS` and `SEATRIAL_AUDITORS` say.
"""

import os

from loadtests.tokens import TokenError, user_token
from loadtests.users import AuditUser, ChartUser, LogUser, OperatorUser, UiSubscriber

__all__ = ["AuditUser", "ChartUser", "LogUser", "OperatorUser", "UiSubscriber"]

try:
    user_token(os.environ, "loadtest")
except TokenError as error:
    raise SystemExit(f"locustfile: {error}") from None
