"""A process of a benchmark that gets a plan and leaves what it found, both as JSON files."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

from loadtests.children import MAX_GENERATOR_CPU, Child, python
from loadtests.stage import Site, outer_environment

T = TypeVar("T")


class PlannedProcess(Generic[T]):
    """One use of such a process.

    Args:
        module: that runs, called with the two files.
        plan: written to the first one.
        found: type of what it writes to the second one.
        variables: of its environment, beside ours: what must not lie in a file.
        directory: gets both files and the log, each under `name`.
        name: of this use.
    """

    def __init__(
        self, module: str, plan: Struct, found: type[T], variables: Mapping[str, str], directory: Path, name: str
    ) -> None:
        self._plan = plan
        self._found = found
        self._plan_file = directory / f"{name}-plan.json"
        self.out = directory / f"{name}.json"
        self.child = Child(
            name, python(module, str(self._plan_file), str(self.out)),
            outer_environment() | dict(variables), directory / f"{name}.log",
        )  # fmt: skip

    async def start(self) -> None:
        """Start it.

        Raises:
            ChildError: the system does not let us.
        """
        self._plan_file.write_bytes(msgspec.json.encode(self._plan))
        await self.child.start()

    async def found(self, seconds: float) -> T:
        """Wait for its end, at most so long.

        Raises:
            ChildError: it ended with an error, or not in time.
        """
        try:
            async with asyncio.timeout(seconds):
                code = await self.child.wait()
        except TimeoutError:
            raise self.child.failure(f"did not end within {seconds:g} s") from None
        if code != 0:
            raise self.child.failure(f"ended with exit code {code}")
        return msgspec.json.decode(self.out.read_bytes(), type=self._found)


def signing(server: Site) -> Mapping[str, str]:
    """The variables with which such a process signs its users' tokens itself."""
    return {**server.credentials, "SEATRIAL_ORG": server.org}


def busy(who: str, cpu_seconds: float, seconds: float) -> list[str]:
    """Why figures of a process that used so much CPU are worthless; empty: they stand."""
    cores = cpu_seconds / seconds
    return [f"the {who} used {cores:.0%} of a core: they were the bottleneck"] if cores > MAX_GENERATOR_CPU else []
