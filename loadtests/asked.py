"""Asking the API from the runner: patiently, because the server may be busy at the end of a load."""

import asyncio
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import TypeVar

import msgspec

from loadtests.consent import opener

READ_SECONDS = 10.0
TRY_SECONDS = 30.0
"""How long something is asked for again where there is no good answer."""
_RETRY_SECONDS = 0.5

T = TypeVar("T")


class AskError(Exception):
    """There was no good answer in time."""


async def ask(url: str, authorization: Callable[[], str], into: type[T]) -> T:
    """The answer to a GET.

    Args:
        url: of the server.
        authorization: makes the header of that name.
        into: what the answer is decoded as.

    Raises:
        AskError: there was no good answer in time.
    """
    deadline = time.monotonic() + TRY_SECONDS
    while True:
        request = urllib.request.Request(url, headers={"Authorization": authorization()})  # noqa: S310 - ours, or checked before
        try:
            return msgspec.json.decode(await asyncio.to_thread(_fetch, request), type=into)
        except (urllib.error.URLError, OSError, TimeoutError, msgspec.DecodeError) as error:
            if time.monotonic() > deadline:
                raise AskError(f"{type(error).__name__}: {error}") from None
        await asyncio.sleep(_RETRY_SECONDS)


def _fetch(request: urllib.request.Request) -> bytes:
    with opener().open(request, timeout=READ_SECONDS) as response:
        return bytes(response.read())
