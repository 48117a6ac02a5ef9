"""A recording: the frames that agents sent, with their times. JSON lines; the first one is the header.

What the agents' HTTP requests carried, above all their tokens, is not part of it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

VERSION = 1
FLUSH_BYTES = 1 << 20
"""As much waits in memory at most."""
MAX_BYTES = 1 << 30
"""Of a recording that is read: it is held in memory whole."""


class RecordingError(Exception):
    """A recording that cannot be used. The sentence names file, line and what was expected."""


class _Entry(msgspec.Struct, tag_field="type", frozen=True):
    """Base of all lines: the tag is written as `type`."""


class Start(_Entry, tag="recording", frozen=True, kw_only=True):
    """First line."""

    version: int = VERSION
    at_us: int
    """Unix microseconds; so are all other times."""


class Opened(_Entry, tag="open", frozen=True, kw_only=True):
    """An agent's connection stands; `connection` numbers them from 1."""

    connection: int
    at_us: int
    subprotocol: str | None


class Frame(_Entry, tag="frame", frozen=True, kw_only=True):
    """A text message of an agent, as it came."""

    connection: int
    at_us: int
    text: str


class Closed(_Entry, tag="close", frozen=True, kw_only=True):
    """A connection ended, by whom and with which code; 1006: it broke."""

    connection: int
    at_us: int
    code: int
    by: str


Entry = Start | Opened | Frame | Closed


class RecordingWriter:
    """Writes a recording. Little waits in memory: see `flush`.

    Args:
        path: a file that must not exist yet.
        at_us: now, Unix microseconds.

    Raises:
        OSError: the file exists or cannot be written; every method may raise it too.

    Attributes:
        frames: written or waiting.
        frame_bytes: of them, UTF-8.
    """

    def __init__(self, path: Path, at_us: int) -> None:
        self._file = path.open("xb", buffering=0)
        self._encode = msgspec.json.Encoder().encode
        self._waiting = bytearray()
        self.frames = self.frame_bytes = 0
        self.add(Start(at_us=at_us))
        self.flush()

    def add(self, entry: Entry) -> None:
        """Take an entry; past `FLUSH_BYTES` all that waits is written."""
        self._waiting += self._encode(entry) + b"\n"
        if isinstance(entry, Frame):
            self.frames += 1
            self.frame_bytes += len(entry.text.encode("utf-8", "replace"))
        if len(self._waiting) >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        data = memoryview(bytes(self._waiting))
        self._waiting.clear()
        while data:  # an unbuffered write may be short
            data = data[self._file.write(data) :]

    def close(self) -> None:
        """Write what waits and close the file. Safe to call twice."""
        if not self._file.closed:
            try:
                self.flush()
            finally:
                self._file.close()


def read_entries(path: Path) -> Iterator[Entry]:
    """The entries of a recording after its header.

    A last line without its end is that of a recorder that was killed, and left out.

    Raises:
        RecordingError: it cannot be read, is none, or of a newer version.
    """
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise RecordingError(f"{path}: {size} bytes: expected at most {MAX_BYTES}")
        with path.open("rb") as file:
            yield from _entries(path, file)
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read: {error.strerror or error}") from None


def _entries(path: Path, file: BinaryIO) -> Iterator[Entry]:
    decode = msgspec.json.Decoder(Entry).decode
    number = 0
    for number, line in enumerate(file, 1):
        if not line.endswith(b"\n"):
            break
        if number == 1:
            _check_header(path, line)
            continue
        try:
            yield decode(line)
        except msgspec.DecodeError as error:
            raise RecordingError(f"{path}:{number}: {error}: expected a record of a recording") from None
    if number < 1:
        raise RecordingError(f"{path}: empty: expected a recording")


def _check_header(path: Path, line: bytes) -> None:
    try:
        header = msgspec.json.decode(line, type=dict)
    except msgspec.DecodeError:
        header = {}
    if header.get("type") != "recording":
        raise RecordingError(f"{path}:1: expected the header of a recording")
    version = header.get("version")
    if version != VERSION:
        newer = "; it was made by a newer version" if isinstance(version, int) and version > VERSION else ""
        raise RecordingError(f"{path}:1: version = {version}: expected {VERSION}{newer}")
