"""Becomes another program: as a given user, and dying with its parent.

This file is run by its path, in an interpreter of its own (`python -I -S postgres_launch.py ...`), so it may import the
standard library only. A `preexec_fn` would do the same between fork and exec, but running Python there can deadlock in
a process with threads, and Python 3.12 warns about it.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True, slots=True)
class Account:
    """Whom a program runs as."""

    name: str
    uid: int
    gid: int

    @property
    def switches(self) -> bool:
        """Whether this is another user than ours."""
        return self.uid != os.geteuid()


def launch_command(program: Sequence[str], account: Account, on_parent_death: signal.Signals) -> list[str]:
    """The command that runs `program` as `account` and sends it a signal when the calling *thread* ends.

    Linux keeps the promise about the parent for the thread that forks, not for its process: call `Popen` from a thread
    that lives as long as the program may. Elsewhere than on Linux the program outlives a killed parent.
    """
    return [
        *(sys.executable, "-I", "-S", str(Path(__file__).resolve())),
        *(str(os.getpid()), str(int(on_parent_death)), str(account.uid), str(account.gid)),
        *program,
    ]


def first_unreachable(path: Path, account: Account) -> Path | None:
    """The first part of `path`, from the root down, that `account` may not enter or execute; None if all is open.

    Raises:
        OSError: a part does not exist, or we ourselves may not look at it.
    """
    for part in (*reversed(path.parents), path):
        status = part.stat()
        shift = 6 if status.st_uid == account.uid else 3 if status.st_gid == account.gid else 0
        if not status.st_mode >> shift & 1:
            return part
    return None


def main(arguments: Sequence[str]) -> None:
    """Take the arguments of `launch_command` after the file's name, and become the program. Does not return."""
    parent, on_parent_death, uid, gid = (int(argument) for argument in arguments[:4])
    program = arguments[4:]
    libc = ctypes.CDLL(None, use_errno=True)
    os.umask(0o077)
    if uid != os.geteuid():
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        # After the switch of user, which clears it.
        if libc.prctl(_PR_SET_PDEATHSIG, on_parent_death, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
        if os.getppid() != parent:
            sys.exit("the parent died before the program started")
    os.execv(program[0], list(program))  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
