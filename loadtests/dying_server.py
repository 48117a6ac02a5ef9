"""A server that kills itself at a seam of a flush, once it is told to: `python -m loadtests.dying_server SEAM`.

It serves as `seatrial serve` does, with settings from SEATRIAL_*. After `ARM` the process gets SIGKILL as soon as a writer
lane comes to the seam (`server.db.writer.Seam`): whatever came before it has happened, nothing after it will. Nobody can hit
the moment between a COMMIT and its acks from outside.
"""

import os
import signal
import sys
from types import FrameType

from loadtests.stage import ARM
from server import logs, serving
from server.db.writer import Seam
from server.settings import Settings


def killing(name: str) -> Seam:
    """The seam that kills this process at `name`, once `ARM` came."""
    armed = False

    def arm(_number: int, _frame: FrameType | None) -> None:
        nonlocal armed
        armed = True

    async def pass_by(passed: str) -> None:
        if armed and passed == name:
            os.kill(os.getpid(), signal.SIGKILL)

    signal.signal(ARM, arm)
    return pass_by


if __name__ == "__main__":
    settings = Settings()  # type: ignore[call-arg]  # from the environment
    logs.configure(settings.log_level, settings.log_format)
    sys.exit(serving.run(settings, killing(sys.argv[1])))
