"""A server that kills itself at a seam of a flush: `python -m tests.support.dying_server SEAM N`, settings from SEATRIAL_*.

At the N-th time that a lane passes the seam (see `server.db.writer.Seam`) the process gets SIGKILL: whatever came before it
has happened, nothing after it will.
"""

import os
import signal
import sys

from server.db.writer import Seam
from server.serving import make_server
from server.settings import Settings


def killing(name: str, times: int) -> Seam:
    """The seam that kills this process."""
    left = times

    async def pass_by(passed: str) -> None:
        nonlocal left
        left -= passed == name
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    return pass_by


if __name__ == "__main__":
    settings = Settings()  # type: ignore[call-arg]  # from the environment
    make_server(settings, killing(sys.argv[1], int(sys.argv[2]))).run()
