"""`seatrial merge-reports`."""

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

_USAGE, _ENVIRONMENT, _INVALID = 2, 3, 12


def merge_reports(
    reports: Annotated[list[Path], typer.Argument(help="What --report wrote for each shard of a fleet.")],
    output: Annotated[Path | None, typer.Option(help="Write the whole to this file; else to standard output.")] = None,
) -> None:
    """One report of a fleet that ran on several machines, of the reports of all its shards.

    Exit code: 0 merged, 2 the files are no reports of one fleet, 3 the output cannot be written, 12 merged, but the fleet
    itself was the bottleneck, or a fault did not happen.
    """
    import msgspec

    from simulator.report_files import ReportError, merge_files

    try:
        whole = merge_files(reports)
    except ReportError as error:
        _fail(_USAGE, str(error))
    text = msgspec.json.format(msgspec.json.encode(whole))
    if output is None:
        typer.echo(text.decode())
    else:
        try:
            output.write_bytes(text + b"\n")
        except OSError as error:
            _fail(_ENVIRONMENT, f"output = {output}: {error.strerror or error}: expected a file that can be written")
    sys.stderr.writelines(f"invalid: {reason}\n" for reason in whole["invalid"])
    raise typer.Exit(_INVALID if whole["invalid"] else 0)


def _fail(code: int, message: str) -> NoReturn:
    sys.stderr.write(f"{message}\n")
    raise typer.Exit(code)
