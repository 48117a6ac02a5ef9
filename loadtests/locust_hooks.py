"""What Locust's processes of a run are told and leave behind: variables, options, measurements, attempts.

In Locust's own process only, as `loadtests.users`.
"""

import atexit
import ctypes
import os
import re
import secrets
import signal
import socket
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import gevent
import psutil
from locust.runners import MasterRunner, WorkerRunner

from loadtests.attempts import AttemptLog
from loadtests.consent import NoConsentError, require_consent
from loadtests.recorded import Measurements
from loadtests.shapes import ShapeError, parse_shape
from loadtests.stored import Turnstile
from simulator.scenario_shapes import Shape

MEASUREMENTS = "SEATRIAL_MEASUREMENTS"
"""Names the file that gets the measurements when the test stops."""
ATTEMPTS = "SEATRIAL_ATTEMPTS"
"""Names the file to which operators append each attempt."""
RUN = "SEATRIAL_RUN"
"""The run's name, with which the attempts' reasons begin."""
MEASURED_FROM = "SEATRIAL_MEASURED_FROM"
"""Unix time before which nothing counts in a latency; not set: everything does."""
ONE_CLOCK = "SEATRIAL_ONE_CLOCK"
"""1: the agents run on this machine, so that no offset to the server's clock is taken out of latencies; not set: it is."""
ORGANISATIONS = "SEATRIAL_ORGANISATIONS"
"""To so many the users belong in turn; not set: to the one of the environment."""
AGENTS = "SEATRIAL_AGENTS"
"""So many agents the organisations have together; not set: not known."""
SHAPE = "SEATRIAL_SHAPE"
"""How the number of browsers changes; not set: it does not."""

OPERATORS, CHART_READERS, LOG_DOWNLOADERS, AUDITORS, SLOW, RECONNECTING = (
    "SEATRIAL_OPERATORS", "SEATRIAL_CHART_READERS", "SEATRIAL_LOG_DOWNLOADERS", "SEATRIAL_AUDITORS",
    "SEATRIAL_SLOW_BROWSERS", "SEATRIAL_RECONNECTING_BROWSERS",
)  # fmt: skip
"""How many of Locust's users are of these kinds, none by default; the others are browsers."""

WRITE_SECONDS = 3.0
"""Between two writes of what was measured so far."""
CHECKS_PER_SECOND = 2.0
"""Of all browsers of a process, at most."""
LAST_WORDS_SECONDS = 10.0
"""Time for workers to leave."""
_WORKERS_MESSAGE = "seatrial_workers"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def count_of(variable: str) -> int:
    """How many a variable asks for; 0: it is not set.

    Raises:
        SystemExit: it holds no number.
    """
    text = os.environ.get(variable) or "0"
    if not text.isdecimal():
        raise SystemExit(f"{variable} = {text}: expected a number")
    return int(text)


def measured_from_us() -> int:
    """The time from which on latencies count, in Unix microseconds.

    Raises:
        SystemExit: the variable holds no time.
    """
    text = os.environ.get(MEASURED_FROM) or "0"
    try:
        return round(float(text) * 1e6)
    except (ValueError, OverflowError):
        raise SystemExit(f"{MEASURED_FROM} = {text}: expected a Unix time") from None


def one_clock() -> bool:
    """Whether the agents have the users' clock.

    Raises:
        SystemExit: the variable holds something else.
    """
    text = os.environ.get(ONE_CLOCK) or "0"
    if text not in {"0", "1"}:
        raise SystemExit(f"{ONE_CLOCK} = {text}: expected 0 or 1")
    return text == "1"


def shape_of(text: str | None) -> Shape:
    """The shape that a text asks for; none: a steady one.

    Raises:
        SystemExit: it is no shape.
    """
    try:
        return parse_shape(text) if text else Shape()
    except ShapeError as error:
        raise SystemExit(f"{SHAPE}: {error}") from None


def register(events: Any) -> None:
    """Take part in Locust's events. Called once in a process."""
    events.init_command_line_parser.add_listener(_add_options)
    events.init.add_listener(_ask_first)
    events.test_start.add_listener(_ask_first)
    events.init.add_listener(_hear_of_workers)
    events.test_start.add_listener(_tell_workers)
    events.init.add_listener(_live_as_long_as_the_workers)
    events.init.add_listener(_die_with_the_master)
    events.init.add_listener(_leave_when_told)
    events.init.add_listener(_begin)
    events.test_start.add_listener(_begin)
    events.init.add_listener(_begin_attempts)
    events.init.add_listener(_name_file)
    events.init.add_listener(_write_meanwhile)
    # Both write, because a signal makes Locust quit before it stops the users.
    events.test_stop.add_listener(_write)
    events.quitting.add_listener(_write)


def _add_options(parser: Any) -> None:
    parser.add_argument(
        "--visit-seconds", type=float, default=25.0, env_var="SEATRIAL_VISIT_SECONDS",
        help="How long a simulated browser stays, give or take a fifth",
    )  # fmt: skip
    parser.add_argument(
        "--check-seconds", type=float, default=30.0, env_var="SEATRIAL_CHECK_SECONDS",
        help="How far back a browser compares what came with what is stored; retention must be longer",
    )  # fmt: skip
    parser.add_argument(
        "--seed",
        type=int,
        default=1,
        env_var="SEATRIAL_SEED",
        help="Of what simulated users choose, and how long they think",
    )
    parser.add_argument(
        "--actions-per-second", type=float, default=1.0, env_var="SEATRIAL_ACTIONS_PER_SECOND",
        help="Attempts of all simulated operators together",
    )  # fmt: skip
    parser.add_argument(
        "--actions-until", type=float, default=0.0, env_var="SEATRIAL_ACTIONS_UNTIL",
        help="Unix time after which no attempt is begun; 0: until the end",
    )  # fmt: skip


def _ask_first(environment: Any, **_: Any) -> None:
    """Load no server that has not agreed. The web page may name another one than the command line."""
    if environment.host:
        try:
            require_consent(environment.host, os.environ)
        except NoConsentError as error:
            raise SystemExit(f"locustfile: {error}") from None


def _hear_of_workers(environment: Any, **_: Any) -> None:
    """A worker learns how many there are before its first user comes, whether they are forked or on other machines."""
    environment.seatrial_workers = 1

    def hear(environment: Any, msg: Any, **_: Any) -> None:
        environment.seatrial_workers = msg.data

    if isinstance(environment.runner, WorkerRunner):
        environment.runner.register_message(_WORKERS_MESSAGE, hear)


def _tell_workers(environment: Any, **_: Any) -> None:
    if isinstance(environment.runner, MasterRunner):
        environment.runner.send_message(_WORKERS_MESSAGE, environment.runner.worker_count)


def _live_as_long_as_the_workers(environment: Any, **_: Any) -> None:
    """A master that forked its workers ends after them: they have yet to write what they measured. Locust does not wait."""
    if isinstance(environment.runner, MasterRunner) and environment.parsed_options.processes:
        atexit.register(_wait_for_children)


def _wait_for_children() -> None:
    deadline = time.monotonic() + LAST_WORDS_SECONDS
    for child in psutil.Process().children():
        # They are left to Locust to bury.
        while not _ended(child.pid) and time.monotonic() < deadline:
            time.sleep(0.05)


def _ended(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _die_with_the_master(environment: Any, **_: Any) -> None:
    """A worker that the master forked dies with it. By itself it would only notice after a minute."""
    if not isinstance(environment.runner, WorkerRunner) or not environment.parsed_options.processes:
        return
    if sys.platform == "linux":
        master = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != master:
            raise SystemExit("the master ended before this worker began")


def _leave_when_told(environment: Any, **_: Any) -> None:
    """A shape ends at SIGTERM. Locust itself listens to it only after a shape has ended, and would just be killed."""
    environment.seatrial_leaving = False

    def leave() -> None:
        environment.seatrial_leaving = True

    if environment.shape_class is not None and not isinstance(environment.runner, WorkerRunner):
        gevent.signal_handler(signal.SIGTERM, leave)


def _begin(environment: Any, **_: Any) -> None:
    """Every test has measurements of its own: the web UI starts several in a process."""
    environment.seatrial_measurements = Measurements(
        environment.events.request.fire, measured_from_us(), one_clock=one_clock()
    )
    environment.seatrial_turnstile = Turnstile(CHECKS_PER_SECOND)


def _begin_attempts(environment: Any, **_: Any) -> None:
    """One name for the whole process, and one file, to which the workers of a machine append each line whole."""
    name = os.environ.get(ATTEMPTS)
    environment.seatrial_attempts = AttemptLog(Path(name) if name else None)
    environment.seatrial_run = os.environ.get(RUN) or f"loadtest-{uuid.uuid4().hex[:8]}"


def _name_file(environment: Any, **_: Any) -> None:
    """Each worker has a file of its own, under a name that no worker of another machine has when they are gathered."""
    name = os.environ.get(MEASUREMENTS)
    path = Path(name) if name else None
    if path is not None and isinstance(environment.runner, WorkerRunner):
        machine = re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())[:64]
        path = path.with_name(f"{path.stem}-{machine}-{secrets.token_hex(4)}-{os.getpid()}{path.suffix}")
    environment.seatrial_file = path


def _write(environment: Any, **_: Any) -> None:
    if environment.seatrial_file is None or isinstance(environment.runner, MasterRunner):
        return
    if environment.seatrial_writing is not None:
        environment.seatrial_writing.kill()
        environment.seatrial_writing = None
    environment.seatrial_measurements.write(environment.seatrial_file)


def _write_meanwhile(environment: Any, **_: Any) -> None:
    """Tell every few seconds what was measured so far: a threshold may end the run by it."""
    environment.seatrial_writing = None
    if environment.seatrial_file is not None and not isinstance(environment.runner, MasterRunner):
        environment.seatrial_writing = gevent.spawn(_write_often, environment)


def _write_often(environment: Any) -> None:
    while True:
        gevent.sleep(WRITE_SECONDS)
        environment.seatrial_measurements.write(environment.seatrial_file, ended=False)
