"""The pools of log lines: rich in what a reader must survive, and the same for the same seed."""

import json
import re
import unicodedata

import pytest

from server.protocol.canonical import LOG_TEXT_BYTES
from simulator.loglines import Line, LogLines
from simulator.profiles import PROFILES, Profile
from simulator.signals import noise


@pytest.fixture(scope="module")
def lines() -> LogLines:
    """The pools of one seed."""
    return LogLines(5)


def texts(lines: LogLines, kind: str) -> list[str]:
    """The lines of a kind."""
    return [line.text for entry in lines.kinds[kind] for line in entry]


def picked(lines: LogLines, profile: Profile, count: int = 5000) -> list[Line]:
    """What a container of a profile prints."""
    number = PROFILES.index(profile)
    return [line for counter in range(count) for line in lines.pick(number, noise(1, counter))]


def test_the_same_seed_gives_the_same_pools(lines: LogLines) -> None:
    """Pools of one seed are equal, of two seeds not, and their digests say so."""
    assert LogLines(5).kinds == lines.kinds
    assert LogLines(5).digest == lines.digest
    assert LogLines(6).digest != lines.digest


def test_every_kind_there_is_gets_printed(lines: LogLines) -> None:
    """No kind lies in a pool from which nobody picks."""
    seen = {line for profile in PROFILES for line in picked(lines, profile, 20_000)}

    for kind, entries in lines.kinds.items():
        assert any(line in seen for entry in entries for line in entry), kind


def test_access_lines_are_those_of_a_web_server(lines: LogLines) -> None:
    """Address, request, status and size stand where a parser looks for them."""
    pattern = re.compile(r'[0-9.]+ - - "[A-Z]+ /\S+ HTTP/1\.1" [1-5][0-9]{2} [0-9]+ ".+"')

    assert all(pattern.fullmatch(text) for text in texts(lines, "access"))


def test_json_lines_are_json(lines: LogLines) -> None:
    """Each is an object with a level and a message."""
    assert all({"level", "msg"} <= json.loads(text).keys() for text in texts(lines, "json"))


def test_warnings_go_to_stderr(lines: LogLines) -> None:
    """Each begins with its level; bursts are made of them."""
    assert all(text.startswith("WARN") for text in texts(lines, "warning"))
    assert {line.stream for entry in lines.alarms for line in entry} == {"stderr"}


def test_a_stack_trace_comes_whole(lines: LogLines) -> None:
    """Its lines are one entry, from the head to the error."""
    for entry in lines.kinds["trace"]:
        assert len(entry) >= 6
        assert entry[0].text.startswith("Traceback")
        assert all(line.text.startswith("  ") for line in entry[1:-1])
        assert entry[-1].text.startswith("ValueError")


def test_unicode_comes_in_many_scripts(lines: LogLines) -> None:
    """Latin with marks, Japanese, Cyrillic, Arabic, emoji and what is joined."""
    names = {unicodedata.name(char, "").split()[0] for text in texts(lines, "unicode") for char in text if char > "~"}

    assert {"LATIN", "KATAKANA", "CYRILLIC", "ARABIC", "ROCKET", "COMBINING", "ZERO"} <= names


def test_ansi_lines_are_coloured(lines: LogLines) -> None:
    """Each sets a colour and takes it back."""
    assert all(re.match(r"\x1b\[[0-9;]+m\w+\x1b\[0m", text) for text in texts(lines, "ansi"))


def test_a_very_long_line_passes_the_limit(lines: LogLines) -> None:
    """It is longer than the server keeps, and the cut does not lie between two characters of one byte each."""
    (text,) = texts(lines, "long")

    assert len(text.encode()) > LOG_TEXT_BYTES


@pytest.mark.parametrize(
    "danger", ["<script>", "DROP TABLE", "${jndi:", "%n", "=HYPERLINK", "\x1b]0;", "\u202e", "\r", "\uffff", "../.."]
)
def test_hostile_lines_try_what_attackers_try(lines: LogLines, danger: str) -> None:
    """Markup, SQL, look-ups, formats, spreadsheet formulas, terminal commands, turned text, paths."""
    assert any(danger in text for text in texts(lines, "hostile"))


def test_a_line_may_be_empty_binary_or_unfinished(lines: LogLines) -> None:
    """There is an empty line, one with NUL, and one that goes on in the next row."""
    assert "" in texts(lines, "hostile")
    assert any("\x00" in text for text in texts(lines, "binary"))
    assert any(line.partial for entry in lines.kinds["partial"] for line in entry)


def test_every_line_is_one_line_and_can_be_encoded(lines: LogLines) -> None:
    """No line holds a line end or a lone surrogate."""
    for kind in lines.kinds:
        for text in texts(lines, kind):
            assert "\n" not in text
            text.encode()


def test_containers_print_what_their_profile_prints(lines: LogLines) -> None:
    """Only a database tells of checkpoints; only a crash loop panics."""
    for profile in PROFILES:
        printed = " ".join(line.text for line in picked(lines, profile))
        assert ("checkpoint" in printed) is (profile is Profile.DATABASE)
        assert ("panic:" in printed) is (profile is Profile.CRASH_LOOPING)


def test_rare_lines_come_rarely(lines: LogLines) -> None:
    """One entry in 512, each of them some time."""
    number = PROFILES.index(Profile.IDLE)
    entries = [lines.pick(number, noise(1, counter)) for counter in range(40_000)]

    rare = [entry for entry in entries if entry in lines.rare]
    assert 40 < len(rare) < 130
    assert {lines.pick(number, place << 9) for place in range(len(lines.rare))} == set(lines.rare)
