"""The form in which values are stored, so that two ends can compare what was sent with what is there.

Postgres text holds neither U+0000 nor surrogates; a lone surrogate cannot be UTF-8 either. Both become U+FFFD. A log line
longer than the limit is cut at a character boundary. `cpu` is stored as float32.
"""

import re
import struct

REPLACEMENT = "\ufffd"
LOG_TEXT_BYTES = 16 * 1024
"""Default of `limits.log_text_bytes`: Docker itself splits lines at 16 KiB."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_float32 = struct.Struct("<f")


def clean_text(text: str) -> str:
    """`text` with every U+0000 and lone surrogate replaced by U+FFFD."""
    if "\x00" not in text:
        try:
            text.encode()
        except UnicodeEncodeError:
            pass
        else:
            return text
    return _UNSTORABLE.sub(REPLACEMENT, text)


def clean_log_text(text: str, limit_bytes: int = LOG_TEXT_BYTES) -> tuple[bytes, bool]:
    """The UTF-8 bytes of a log line as stored, and whether they were cut to `limit_bytes`.

    The cut falls on a character boundary, so up to three bytes below the limit.
    """
    data = (text if "\x00" not in text else text.replace("\x00", REPLACEMENT)).encode("utf-8", "surrogatepass")
    if b"\xed" in data:
        data = clean_text(text).encode()
    if len(data) <= limit_bytes:
        return data, False
    end = limit_bytes
    while end and data[end] & 0xC0 == 0x80:
        end -= 1
    return data[:end], True


def float32(value: float) -> float:
    """`value` rounded to the nearest float32, as Postgres' `real` stores it."""
    return float(_float32.unpack(_float32.pack(value))[0])
