"""Locust's entry: `locust -f loadtests/locustfile.py --host http://127.0.0.1:8000`.

The user's token comes from `SEATRIAL_USER_TOKEN`, or is minted from `SEATRIAL_JWT_SECRET`.
"""

import os

from loadtests.tokens import TokenError, user_token
from loadtests.users import UiSubscriber

__all__ = ["UiSubscriber"]

try:
    user_token(os.environ, "loadtest")
except TokenError as error:
    raise SystemExit(f"locustfile: {error}") from None
