"""The stored form of values: what two ends must agree on to compare rows."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.protocol.canonical import LOG_TEXT_BYTES, clean_log_text, clean_text, float32

any_text = st.text(alphabet=st.characters(exclude_categories=()) | st.sampled_from("\x00\ud800\udfff\ud7ff\ue000é😀"))


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("", ""),
        ("plain é 😀 \ufffd \ud7ff \ue000", "plain é 😀 \ufffd \ud7ff \ue000"),
        ("a\x00b", "a\ufffdb"),
        ("\ud800", "\ufffd"),
        ("\udfffx\x00", "\ufffdx\ufffd"),
        ("\ud83d\ude00", "\ufffd\ufffd"),
        ("\x01\x1b[2J\r\n", "\x01\x1b[2J\r\n"),
    ],
)
def test_unstorable_characters_are_replaced(text: str, clean: str) -> None:
    """U+0000 and surrogates become U+FFFD, one each; everything else stays."""
    assert clean_text(text) == clean
    assert clean_log_text(text) == (clean.encode(), False)


def test_storable_text_is_not_copied() -> None:
    """Text that needs no change comes back as the same object: the hot path pays nothing."""
    text = "GET /health é"

    assert clean_text(text) is text


@pytest.mark.parametrize(
    ("text", "limit", "stored"),
    [
        ("abcd", 4, (b"abcd", False)),
        ("abcde", 4, (b"abcd", True)),
        ("aé", 2, (b"a", True)),
        ("aé", 3, ("aé".encode(), False)),
        ("é" * 3, 5, ("éé".encode(), True)),
        ("a😀", 4, (b"a", True)),
        ("😀", 3, (b"", True)),
        ("a\x00", 3, (b"a", True)),
        ("a\ud800b", 4, ("a\ufffd".encode(), True)),
    ],
)
def test_a_long_line_is_cut_at_a_character(text: str, limit: int, stored: tuple[bytes, bool]) -> None:
    """The cut never splits a character, and is judged after the replacements."""
    assert clean_log_text(text, limit) == stored


@given(any_text, st.integers(0, 20))
def test_a_cut_line_is_the_longest_that_fits(text: str, limit: int) -> None:
    """What is stored is a prefix of the clean text, within the limit, and one more character would not fit."""
    clean = clean_text(text)

    data, cut = clean_log_text(text, limit)

    stored = data.decode()
    assert clean.startswith(stored)
    assert len(data) <= limit
    assert cut == (stored != clean)
    if cut:
        assert len(clean[: len(stored) + 1].encode()) > limit


@given(any_text)
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    """A stored value is its own canonical form."""
    clean = clean_text(text)

    assert clean_text(clean) == clean
    assert "\x00" not in clean
    assert clean.encode().decode() == clean


def test_the_limit_is_dockers() -> None:
    """Docker splits lines at 16 KiB: what it sends whole is stored whole."""
    assert clean_log_text("x" * LOG_TEXT_BYTES) == (b"x" * 16_384, False)


@given(st.floats(0, 1_000_000))
def test_float32_is_what_four_bytes_hold(value: float) -> None:
    """The rounding is that of the four bytes that are stored, and is stable."""
    (stored,) = struct.unpack(">f", struct.pack(">f", value))

    assert float32(value) == stored
    assert float32(stored) == stored
