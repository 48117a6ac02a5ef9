"""The directory of a run, and `result.json` in it: written whole or not at all, and read with a word on what is wrong."""

import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from loadtests.result import VERSION, Result

NAME = "result.json"


class ResultError(Exception):
    """A result that cannot be read."""


def create_run_directory(runs: Path, scenario: str) -> Path:
    """Make `runs/<scenario>-<UTC time>/` and let the link `runs/latest` point at it.

    Raises:
        OSError: it cannot be made.
    """
    runs.mkdir(parents=True, exist_ok=True)
    name = f"{scenario}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    for number in range(1, 100):
        directory = runs / (name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            directory.mkdir()
            break
    else:
        raise FileExistsError(f"{runs / name}: 99 runs began in this second")
    _point(runs / "latest", directory)
    return directory


def _point(link: Path, directory: Path) -> None:
    """Let `link` point at its sibling `directory`; whoever looks finds the old one or the new one, never none."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(directory.name)
    try:
        temporary.replace(link)
    except OSError:
        temporary.unlink()
        raise


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, so that it survives a power cut as the old one or as the new one.

    Raises:
        OSError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_result(directory: Path, result: Result) -> Path:
    """Write `result.json` into `directory`.

    Raises:
        OSError: it cannot be written.
    """
    path = directory / NAME
    write_whole(path, msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    return path


class _Versioned(msgspec.Struct):
    version: int


def read_result(path: Path) -> Result:
    """Read a `result.json`.

    Args:
        path: of the file, or of the run's directory.

    Raises:
        ResultError: it cannot be read, is cut off, is no result, or is of another version.
    """
    path = path / NAME if path.is_dir() else path
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ResultError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        version = msgspec.json.decode(content, type=_Versioned).version
    except msgspec.ValidationError as error:
        raise ResultError(f"{path}: expected the result of a run: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ResultError(f"{path}: expected the whole result of a run; it is cut off or no JSON: {error}") from None
    if version > VERSION:
        raise ResultError(
            f"{path}: version = {version}: written by a newer Seatrial, this one reads version {VERSION}: use that one"
        )
    if version < VERSION:
        raise ResultError(
            f"{path}: version = {version}: written by an older Seatrial, this one reads version {VERSION}: run it again"
        )
    try:
        return msgspec.json.decode(content, type=Result)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ResultError(f"{path}: expected a result of version {VERSION}: {error}") from None


def result_schema() -> dict[str, Any]:
    """The JSON Schema of `result.json`."""
    schema = msgspec.json.schema(Result)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"result.json of Seatrial, version {VERSION}",
        **schema,
    }


if __name__ == "__main__":
    import sys

    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(result_schema()), indent=2) + b"\n")
