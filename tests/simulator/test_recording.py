"""The file of a recording: what is refused, and what a killed recorder leaves."""

from pathlib import Path

import pytest

from simulator import recording
from simulator.recording import Closed, Entry, Frame, Opened, RecordingError, RecordingWriter, read_entries

ENTRIES: list[Entry] = [
    Opened(connection=1, at_us=2, subprotocol="seatrial.agent.v1"),
    Frame(connection=1, at_us=3, text='{"größe": "\\u0000 🚀"}'),
    Closed(connection=1, at_us=4, code=1000, by="agent"),
]


def written(path: Path) -> bytes:
    """A recording of `ENTRIES`."""
    writer = RecordingWriter(path, 1)
    for entry in ENTRIES:
        writer.add(entry)
    writer.close()
    writer.close()
    return path.read_bytes()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Entry by entry, with every character of a frame."""
    written(tmp_path / "r")
    assert list(read_entries(tmp_path / "r")) == ENTRIES


def test_a_recording_is_not_written_over(tmp_path: Path) -> None:
    """Who records twice names two files."""
    written(tmp_path / "r")
    with pytest.raises(FileExistsError):
        RecordingWriter(tmp_path / "r", 1)


def test_little_waits_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the bound all that waits is written, without being told."""
    monkeypatch.setattr(recording, "FLUSH_BYTES", 100)
    writer = RecordingWriter(tmp_path / "r", 1)
    for _ in range(3):
        writer.add(ENTRIES[1])

    assert (tmp_path / "r").read_bytes().count(b"\n") >= 2
    writer.close()


def test_the_half_line_of_a_killed_recorder_is_left_out(tmp_path: Path) -> None:
    """Everything before it is there."""
    data = written(tmp_path / "r")
    (tmp_path / "r").write_bytes(data[:-10])

    assert list(read_entries(tmp_path / "r")) == ENTRIES[:-1]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty: expected a recording"),
        (b"hello\n", r"r:1: expected the header of a recording"),
        (b'{"type":"header","version":1}\n', r"r:1: expected the header of a recording"),
        (b'{"type":"recording","version":2,"at_us":1}\n', r"version = 2: expected 1; it was made by a newer version"),
        (
            b'{"type":"recording","version":1,"at_us":1}\n{"type":"tune"}\n',
            r"r:2: .*: expected a record of a recording",
        ),
        (b'{"type":"recording","version":1,"at_us":1}\n\x00\n', r"r:2: .*: expected a record of a recording"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    """The sentence names the file, the line and what was expected."""
    (tmp_path / "r").write_bytes(data)
    with pytest.raises(RecordingError, match=words):
        list(read_entries(tmp_path / "r"))


def test_a_recording_that_is_not_there_or_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it fills memory."""
    with pytest.raises(RecordingError, match="cannot be read: No such file"):
        list(read_entries(tmp_path / "none"))
    written(tmp_path / "r")
    monkeypatch.setattr(recording, "MAX_BYTES", 10)
    with pytest.raises(RecordingError, match="expected at most 10"):
        list(read_entries(tmp_path / "r"))
