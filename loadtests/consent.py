"""Whether a server may be loaded: what it says itself, and where that need not be asked.

Neither asyncio nor gevent: the runner asks in a thread, Locust in a greenlet.
"""

import urllib.error
import urllib.request
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from simulator.addresses import is_loopback

CONSENT_PATH = "/api/test-load"
OWNED = "SEATRIAL_I_OWN_THIS"
"""1: whoever sets it answers for the load, whatever the server says."""
ASK_SECONDS = 10.0


class NoConsentError(Exception):
    """The server did not say that it may be loaded: exit 2."""


class Kept(Struct, frozen=True, kw_only=True):
    """How the target keeps rows, as it says itself."""

    strategy: str
    retention_seconds: float
    prune_interval_seconds: float


class Consent(Struct, frozen=True, kw_only=True):
    """Answer to `GET /api/test-load`."""

    accepted: bool = False
    storage: Kept | None = None


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows nothing: a token goes to the server that was named, and to no other."""

    def redirect_request(self, *_: object) -> None:
        """There is no other request."""


@lru_cache(maxsize=1)
def opener() -> urllib.request.OpenerDirector:
    """What opens a URL straight, without the proxies of the environment, and follows no redirect."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay)


def read_consent(status: int, body: bytes) -> Consent:
    """What an answer to `CONSENT_PATH` says; whatever is no such answer is no consent."""
    if status != 200:
        return Consent()
    try:
        return msgspec.json.decode(body, type=Consent)
    except msgspec.DecodeError:
        return Consent()


def require_consent(host: str, environ: Mapping[str, str]) -> None:
    """Make sure that a server may be loaded; one of this machine may, and is not asked.

    Args:
        host: its http(s) address.
        environ: may hold `OWNED`.

    Raises:
        NoConsentError: it does not say so. It was asked for nothing else, and without a token.
    """
    parts = urlsplit(host)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise NoConsentError(f"--host {host}: expected http[s]://host[:port]")
    if is_loopback(parts.hostname) or environ.get(OWNED) == "1":
        return
    try:
        with opener().open(f"{host.rstrip('/')}{CONSENT_PATH}", timeout=ASK_SECONDS) as response:
            accepted = read_consent(response.status, response.read()).accepted
    except urllib.error.HTTPError as error:
        error.close()
        accepted = False
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise NoConsentError(f"--host {host}: cannot be asked whether it accepts test load: {reason}") from None
    if not accepted:
        raise NoConsentError(
            f"--host {host}: does not say that it accepts test load: set SEATRIAL_ACCEPT_TEST_LOAD=true there if it may"
            f" be loaded, or {OWNED}=1 here to answer for it yourself; nothing was sent"
        )
