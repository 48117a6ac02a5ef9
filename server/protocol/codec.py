"""Frames to messages and back.

Decoding has a fast way and a patient one. The fast way is one msgspec call into the tagged union. Only when it fails is
the frame read again with the standard library and row by row, so that one bad row, a NaN or a lone surrogate costs that
row and not its batch. What even the patient way cannot read is a `FrameError`.
"""

import json
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, TypeVar

import msgspec

from server.protocol.canonical import clean_text
from server.protocol.error_codes import ErrorCode
from server.protocol.messages import (
    MESSAGES,
    About,
    ActionReport,
    AgentCommand,
    AgentMessage,
    Container,
    Error,
    LiveEvent,
    LiveRequest,
    Log,
    Metric,
    type_of,
)

M = TypeVar("M")


class BadRow(NamedTuple):
    """A row of a list that could not be read; the others were."""

    path: str
    """Where it stands: `metrics[3]`."""
    detail: str
    """Field, value found, what was expected."""
    ref: int | None = None
    at: int | None = None
    line: int | None = None


class Decoded(NamedTuple):
    """An agent's message, and the rows of it that could not be read."""

    message: AgentMessage
    bad_rows: tuple[BadRow, ...] = ()
    positions: dict[str, tuple[int, ...]] | None = None
    """Where the rows that were read stood in the frame, per list; None: nothing was left out."""


class FrameError(Exception):
    """A frame that is no message of its direction.

    Attributes:
        error: the `error` message that answers it.
    """

    def __init__(self, code: ErrorCode, message: str, about: About | None = None) -> None:
        super().__init__(message)
        self.error = Error(code=code, message=message, fatal=False, about=about)


encode = msgspec.json.Encoder().encode
"""A message of any direction as the bytes of its frame."""

_decode_agent: Callable[[str | bytes], AgentMessage] = msgspec.json.Decoder(AgentMessage).decode
_decode_command: Callable[[str | bytes], AgentCommand] = msgspec.json.Decoder(AgentCommand).decode
_decode_request: Callable[[str | bytes], LiveRequest] = msgspec.json.Decoder(LiveRequest).decode
_decode_event: Callable[[str | bytes], LiveEvent] = msgspec.json.Decoder(LiveEvent).decode

_AGENT_TYPES = {type_of(m): m for m in MESSAGES["agent"]}
_LIVE_TYPES = {type_of(m): m for m in MESSAGES["live"]}
_ROW_LISTS: dict[str, dict[str, type]] = {
    "hello": {"containers": Container, "unacknowledged_results": ActionReport},
    "inventory": {"upserts": Container},
    "batch": {"metrics": Metric, "logs": Log},
    "pulse": {"metrics": Metric},
}


def decode_agent_message(frame: str | bytes) -> Decoded:
    """What an agent sent.

    Raises:
        FrameError: it is no JSON object, has no known `type`, or breaks a rule outside its row lists.
    """
    try:
        return Decoded(_decode_agent(frame))
    except (msgspec.DecodeError, RecursionError):
        return _decode_patiently(frame)


def decode_agent_command(frame: str | bytes) -> AgentCommand:
    """What the server sent to an agent.

    Raises:
        FrameError: it is no such message.
    """
    return _strict(_decode_command, frame)


def decode_live_request(frame: str | bytes) -> LiveRequest:
    """What a browser sent.

    Raises:
        FrameError: it is no such message.
    """
    try:
        return _decode_request(frame)
    except (msgspec.DecodeError, RecursionError):
        obj = _load(frame)
        message_type = _known_type(obj, _LIVE_TYPES)
        request: LiveRequest = _convert(obj, _LIVE_TYPES[message_type], message_type)
        return request


def decode_live_event(frame: str | bytes) -> LiveEvent:
    """What the server sent to a browser.

    Raises:
        FrameError: it is no such message.
    """
    return _strict(_decode_event, frame)


def _strict(decode: Callable[[str | bytes], M], frame: str | bytes) -> M:
    try:
        return decode(frame)
    except (msgspec.DecodeError, RecursionError) as error:
        raise FrameError(ErrorCode.BAD_REQUEST, str(error)) from None


def _decode_patiently(frame: str | bytes) -> Decoded:
    obj = _load(frame)
    message_type = _known_type(obj, _AGENT_TYPES)
    bad: list[BadRow] = []
    positions: dict[str, tuple[int, ...]] = {}
    for name, row_type in _ROW_LISTS.get(message_type, {}).items():
        rows = obj.get(name)
        if not isinstance(rows, list):
            continue
        good: list[tuple[int, Any]] = []
        for i, row in enumerate(rows):
            try:
                good.append((i, msgspec.convert(row, row_type)))
            except msgspec.ValidationError as error:
                bad.append(_bad_row(f"{name}[{i}]", row, error))
        obj[name] = [row for _, row in good]
        positions[name] = tuple(i for i, _ in good)
    message = _convert(obj, _AGENT_TYPES[message_type], message_type)
    return Decoded(message, tuple(bad), positions)


def _load(frame: str | bytes) -> dict[str, Any]:
    """Read with the standard library, which takes NaN and lone surrogates; they become text that no number field takes."""
    try:
        # As text: of bytes the library would guess whether they are UTF-16.
        obj = json.loads(frame if isinstance(frame, str) else frame.decode(), parse_constant=str)
    except (
        ValueError,
        RecursionError,
    ) as error:  # ValueError: also of UnicodeDecodeError, and numbers of over 4300 digits
        detail = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise FrameError(ErrorCode.BAD_REQUEST, f"not readable as JSON: {detail}") from None
    if not isinstance(obj, dict):
        kind = {list: "array", str: "string", bool: "boolean", type(None): "null"}.get(type(obj), "number")
        raise FrameError(ErrorCode.BAD_REQUEST, f"expected a JSON object, got {kind}")
    try:
        return _clean(obj)  # type: ignore[no-any-return]
    except RecursionError:
        raise FrameError(ErrorCode.BAD_REQUEST, "not readable as JSON: nested too deeply") from None


def _clean(value: Any) -> Any:
    """Replace lone surrogates everywhere: nothing after this point could encode them."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {clean_text(key): _clean(item) for key, item in value.items()}
    return value


def _known_type(obj: dict[str, Any], types: dict[str, Any]) -> str:
    message_type = obj.get("type")
    if message_type is None:
        raise FrameError(ErrorCode.BAD_REQUEST, "the field `type` is missing", About(field="type"))
    if not isinstance(message_type, str) or message_type not in types:
        found = _shown(message_type)
        raise FrameError(
            ErrorCode.UNKNOWN_TYPE,
            f"type = {found}: expected one of {', '.join(types)}",
            About(type=message_type[:64] if isinstance(message_type, str) else None, field="type"),
        )
    return message_type


def _convert(obj: dict[str, Any], to: Any, message_type: str) -> Any:
    try:
        return msgspec.convert(obj, to)
    except msgspec.ValidationError as error:
        field, detail = _explain(error, obj)
        seq = _int(obj.get("seq"))
        about = About(type=message_type, seq=seq, field=field or None, action_id=_str(obj.get("action_id")))
        _refuse(detail, about)


def _refuse(detail: str, about: About) -> NoReturn:
    raise FrameError(ErrorCode.BAD_REQUEST, detail, about) from None


def _bad_row(path: str, row: Any, error: msgspec.ValidationError) -> BadRow:
    _, detail = _explain(error, row)
    if not isinstance(row, dict):
        return BadRow(path, detail)
    return BadRow(path, detail, _int(row.get("ref")), _int(row.get("at")), _int(row.get("line")))


def _explain(error: msgspec.ValidationError, obj: Any) -> tuple[str, str]:
    """Field and sentence of a validation error, with the value that was found."""
    expected, _, path = str(error).partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    if not path:
        return "", expected
    value = obj
    for part in path.replace("[", ".[").split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.startswith("[") and part[1:-1].isdigit() and int(part[1:-1]) < len(value):
            value = value[int(part[1:-1])]
        else:
            return path, f"{path}: {expected}"
    return path, f"{path} = {_shown(value)}: {expected}"


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str, allow_nan=True)
    return text if len(text) <= 80 else text[:77] + "..."


def _int(value: Any) -> int | None:
    """`value` if it is an integer that fits the wire, so that a bad row can be named."""
    in_range = isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    return value if in_range else None


def _str(value: Any) -> str | None:
    return value[:64] if isinstance(value, str) else None
