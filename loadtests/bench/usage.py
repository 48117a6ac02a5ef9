"""What a component uses: CPU time and memory of its processes, and the cores it is held to."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

import asyncpg
import psutil

COMPONENTS = ("server", "postgres", "fleet", "receivers", "operators", "sink", "peers")
"""What may be held to cores. No benchmark has all of them."""


@dataclass(frozen=True, slots=True)
class Component:
    """A process with everything it started."""

    name: str
    pid: int

    def processes(self) -> list[psutil.Process]:
        """The process and its children, those that are gone left out."""
        try:
            head = psutil.Process(self.pid)
            return [head, *head.children(recursive=True)]
        except psutil.Error:
            return []

    def cpu_seconds(self) -> float:
        """User and system time so far, of children that ended too, as far as they were waited for."""
        total = 0.0
        for process in self.processes():
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            total += times.user + times.system
            if process.pid == self.pid:
                total += times.children_user + times.children_system
        return total

    def rss_bytes(self) -> int:
        """Resident memory of the process itself."""
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def pin(self, cores: Iterable[int]) -> None:
        """Hold it, and what it starts from now on, to these cores."""
        wanted = sorted(cores)
        for process in self.processes():
            for thread in process.threads():
                try:
                    psutil.Process(thread.id).cpu_affinity(wanted)
                except psutil.Error:
                    continue


@dataclass(frozen=True, slots=True)
class Moment:
    """CPU time of components at one moment."""

    at: float
    """Monotonic seconds of the loop."""
    cpu_seconds: dict[str, float]

    @classmethod
    def now(cls, components: Iterable[Component]) -> "Moment":
        """Look."""
        used = {component.name: component.cpu_seconds() for component in components}
        return cls(asyncio.get_running_loop().time(), used)

    def since(self, before: "Moment") -> dict[str, float]:
        """CPU seconds used since an earlier moment, by component."""
        return {name: used - before.cpu_seconds.get(name, 0.0) for name, used in self.cpu_seconds.items()}


async def postgres_component(connection: asyncpg.Connection) -> Component | None:
    """The postmaster behind a connection; None: it runs on another machine, or we may not see it."""
    pid = await connection.fetchval("SELECT pg_backend_pid()")
    try:
        parent = psutil.Process(pid).parent()
        if parent is None or not psutil.Process(pid).name().startswith("postgres"):
            return None
    except psutil.Error:
        return None
    return Component("postgres", parent.pid)


def parse_pins(texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """`server=0` and `fleet=0-1` as cores by component.

    Raises:
        ValueError: not of that form, an unknown component, or a core that this process may not use.
    """
    allowed = set(psutil.Process().cpu_affinity() or [])
    pins: dict[str, tuple[int, ...]] = {}
    names = "=, ".join(COMPONENTS[:-1]) + f"= or {COMPONENTS[-1]}="
    for text in texts:
        name, equals, cores = text.partition("=")
        if not equals or name not in COMPONENTS:
            raise ValueError(f"--pin {text}: expected {names} and cores as in 0 or 0-1")
        first, _, last = cores.partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()):
            raise ValueError(f"--pin {text}: expected cores as in 0 or 0-1")
        wanted = range(int(first), int(last or first) + 1)
        if not wanted or not set(wanted) <= allowed:
            raise ValueError(f"--pin {text}: expected cores among {', '.join(map(str, sorted(allowed)))}")
        pins[name] = tuple(wanted)
    return pins
