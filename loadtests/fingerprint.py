"""Where a run took place: figures of two runs compare only if this is equal."""

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import psutil
from msgspec import Struct

PACKAGES = ("asyncpg", "fastapi", "locust", "msgspec", "picows", "uvicorn", "uvloop", "websocket-client", "websockets")
"""Packages whose version can move a figure."""

DURABILITY = ("fsync", "synchronous_commit", "full_page_writes")
"""Settings without which a commit is no promise; a run with one of them off is invalid."""

POSTGRES_SETTINGS = (
    *DURABILITY, "checkpoint_timeout", "max_wal_size", "shared_buffers", "wal_buffers", "wal_compression",
)  # fmt: skip
"""Settings of Postgres that a result holds."""


class Postgres(Struct, frozen=True, kw_only=True):
    """The database of a run."""

    version: str
    settings: dict[str, str]
    """By name, at least those of `POSTGRES_SETTINGS`."""

    def weaknesses(self) -> list[str]:
        """Why a commit here is no promise; empty: it is one."""
        return [
            f"Postgres ran with {name} = {self.settings.get(name, 'unknown')}: an acked row may not survive a crash"
            for name in DURABILITY
            if self.settings.get(name) not in {"on", "remote_apply", "remote_write", "local"}
        ]


class Deployed(Struct, frozen=True, kw_only=True):
    """A server that was there already. The machine of the result is then the one that made the load."""

    url: str
    org: str
    """The organisation in which the run left its rows."""
    version: str | None = None
    """Of the server, as it told; None: it did not."""


class Environment(Struct, frozen=True, kw_only=True):
    """The machine and the software of a run."""

    cores: int
    """That this process may use."""
    memory_bytes: int
    processor: str
    kernel: str
    python: str
    packages: dict[str, str]
    postgres: Postgres | None
    """None: the run ended before it was up."""
    git_commit: str | None
    """None: the project is no git repository. `-dirty` at the end: with changes that are not committed."""
    target: Deployed | None = None
    """The server, where it was not the run's own; None: the run started it on this machine."""


def environment(postgres: Postgres | None = None, target: Deployed | None = None) -> Environment:
    """This machine, now. Reads files and asks git, so not for an event loop."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cores = os.cpu_count() or 1
    return Environment(
        cores=cores,
        memory_bytes=psutil.virtual_memory().total,
        processor=_processor(),
        kernel=f"{platform.system()} {platform.release()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        packages=dict(_versions()),
        postgres=postgres,
        git_commit=git_commit(Path(__file__).parents[1]),
        target=target,
    )


def _versions() -> Mapping[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except (OSError, UnicodeDecodeError):
        pass
    return platform.processor() or platform.machine()


def git_commit(directory: Path) -> str | None:
    """The commit checked out in `directory`, `-dirty` with changes; None without git or outside a repository."""
    if not (directory / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            cwd=directory, capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
