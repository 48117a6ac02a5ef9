"""The codec on bad input: what costs a row, what costs the frame, and what each answer says."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.protocol.codec import (
    BadRow,
    Decoded,
    FrameError,
    decode_agent_command,
    decode_agent_message,
    decode_live_event,
    decode_live_request,
    encode,
)
from server.protocol.error_codes import ErrorCode
from server.protocol.messages import (
    MAX_INT64,
    About,
    AgentHeartbeat,
    Batch,
    Bye,
    Error,
    Hello,
    Inventory,
    Log,
    Metric,
    Pulse,
    Subscribe,
)

ID = "ab" * 32


def batch(metrics: str = "", logs: str = "") -> Decoded:
    """A batch whose rows are given as raw JSON."""
    return decode_agent_message(f'{{"type":"batch","seq":7,"oldest":1,"at":5,"metrics":[{metrics}],"logs":[{logs}]}}')


def refused(frame: str) -> Error:
    """The answer to a frame from an agent that is refused whole."""
    with pytest.raises(FrameError) as caught:
        decode_agent_message(frame)
    assert not caught.value.error.fatal
    assert caught.value.error.message == str(caught.value)
    assert encode(caught.value.error)
    return caught.value.error


class TestFrames:
    """What costs the whole frame."""

    @pytest.mark.parametrize(
        ("frame", "message"),
        [
            ("", "not readable as JSON: Expecting value: line 1 column 1 (char 0)"),
            ('{"type":"bye"', "not readable as JSON: Expecting ',' delimiter: line 1 column 14 (char 13)"),
            (
                "{'type':'bye'}",
                "not readable as JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
            ),
            ('{"type":"bye"} x', "not readable as JSON: Extra data: line 1 column 16 (char 15)"),
            (
                '\ufeff{"type":"bye"}',
                "not readable as JSON: Unexpected UTF-8 BOM (decode using utf-8-sig): line 1 column 1 (char 0)",
            ),
            ("[]", "expected a JSON object, got array"),
            ('"bye"', "expected a JSON object, got string"),
            ("1", "expected a JSON object, got number"),
            ("1.5", "expected a JSON object, got number"),
            ("true", "expected a JSON object, got boolean"),
            ("null", "expected a JSON object, got null"),
        ],
    )
    def test_what_is_no_json_object(self, frame: str, message: str) -> None:
        """Truncated text, a BOM, an array and the like are answered bad_request with the place of the fault."""
        assert refused(frame) == Error(code=ErrorCode.BAD_REQUEST, message=message, fatal=False)

    @pytest.mark.parametrize(
        "frame",
        [
            "[" * 100_000,
            '{"a":' * 100_000,
            '{"type":"batch","seq":1,"oldest":1,"at":5,"x":' + "[" * 5000 + "]" * 5000 + "}",
            '{"type":"batch","seq":1,"oldest":1,"at":5,"metrics":[{"x":' + "[" * 5000 + "]" * 5000 + "}]}",
        ],
    )
    def test_deep_nesting(self, frame: str) -> None:
        """However deep a frame is nested the answer is an error message, not a RecursionError."""
        assert refused(frame).message == "not readable as JSON: nested too deeply"

    @pytest.mark.parametrize("field", ["seq", "unknown"])
    def test_numbers_of_thousands_of_digits(self, field: str) -> None:
        """A number of 5000 digits is refused, wherever it stands."""
        error = refused(f'{{"type":"batch","seq":1,"oldest":1,"at":-1,"{field}":{"9" * 5000}}}')

        assert error.code == ErrorCode.BAD_REQUEST
        assert "5000 digits" in error.message

    def test_a_missing_type(self) -> None:
        """A frame without `type` says so."""
        assert refused("{}") == Error(
            code=ErrorCode.BAD_REQUEST, message="the field `type` is missing", fatal=False, about=About(field="type")
        )

    @pytest.mark.parametrize(
        ("given_type", "about"),
        [('"nope"', "nope"), ('"welcome"', "welcome"), ('"__class__"', "__class__"), ("5", None)],
    )
    def test_an_unknown_type(self, given_type: str, about: str | None) -> None:
        """A type of no message of this direction is answered unknown_type, and those there are."""
        assert refused(f'{{"type":{given_type}}}') == Error(
            code=ErrorCode.UNKNOWN_TYPE,
            message=f"type = {given_type}: expected one of hello, inventory, batch, pulse, action_result, heartbeat, bye",
            fatal=False,
            about=About(type=about, field="type"),
        )

    def test_a_long_unknown_type_is_not_echoed_whole(self) -> None:
        """An answer is short, however long what it answers."""
        error = refused(json.dumps({"type": "x" * 100_000}))

        assert len(encode(error)) < 500

    @pytest.mark.parametrize(
        ("fields", "message", "field"),
        [
            ({"seq": 0}, "seq = 0: Expected `int` >= 1", "seq"),
            ({"seq": MAX_INT64 + 1}, f"seq = {MAX_INT64 + 1}: Expected `int` <= {MAX_INT64}", "seq"),
            ({"seq": "1"}, 'seq = "1": Expected `int`, got `str`', "seq"),
            ({"oldest": None}, "oldest = null: Expected `int`, got `null`", "oldest"),
            ({"at": 1.5}, "at = 1.5: Expected `int`, got `float`", "at"),
            ({"metrics": {}}, "metrics = {}: Expected `array`, got `object`", "metrics"),
            ({"logs": "x" * 200}, 'logs = "' + "x" * 76 + "...: Expected `array`, got `str`", "logs"),
        ],
    )
    def test_a_rule_broken_outside_the_rows(self, fields: dict[str, Any], message: str, field: str) -> None:
        """The answer names the field, the value found and what was expected, and the message it is about."""
        frame = {"type": "batch", "seq": 7, "oldest": 1, "at": 5} | fields
        seq = frame["seq"] if isinstance(frame["seq"], int) and frame["seq"] <= MAX_INT64 else None

        assert refused(json.dumps(frame)) == Error(
            code=ErrorCode.BAD_REQUEST, message=message, fatal=False, about=About(type="batch", seq=seq, field=field)
        )

    def test_a_missing_field(self) -> None:
        """A required field that is missing is named."""
        assert refused('{"type":"batch","seq":7,"at":5}').message == "Object missing required field `oldest`"

    def test_an_action_result_is_named_by_its_action(self) -> None:
        """A refused result says which action's it was."""
        error = refused('{"type":"action_result","action_id":"a-1","outcome":"done","finished_at":1}')

        assert error.about == About(type="action_result", field="outcome", action_id="a-1")


class TestTolerance:
    """What costs nothing."""

    def test_unknown_fields_are_ignored(self) -> None:
        """Fields of a later version, in a message or a row, change nothing."""
        assert decode_agent_message('{"type":"bye","reason":"r","later":[{}]}') == Decoded(Bye(reason="r"))
        assert batch('{"ref":1,"later":{"a":[1]}}').message == Batch(seq=7, oldest=1, at=5, metrics=(Metric(ref=1),))

    def test_of_duplicate_keys_the_last_wins(self) -> None:
        """The same for fields and for the type, so that two readers never take one frame for two things."""
        assert decode_agent_message('{"type":"bye","reason":"a","reason":"b"}').message == Bye(reason="b")
        assert decode_agent_message('{"type":"bye","type":"heartbeat","at":1}').message == AgentHeartbeat(at=1)
        assert batch('{"ref":1,"ref":2}').message == Batch(seq=7, oldest=1, at=5, metrics=(Metric(ref=2),))

    def test_an_integer_is_a_number(self) -> None:
        """A cpu of 1 is 1.0."""
        assert batch('{"ref":1,"cpu":1}').message == Batch(seq=7, oldest=1, at=5, metrics=(Metric(ref=1, cpu=1.0),))

    def test_text_beyond_ascii(self) -> None:
        """Escaped and raw characters mean the same, surrogate pairs included."""
        line = '{"ref":1,"at":1,"line":0,"stream":"stdout","text":"%s"}'
        expected = Log(ref=1, at=1, line=0, stream="stdout", text="é😀")

        assert batch(logs=line % "é😀").message == batch(logs=line % r"\u00e9\ud83d\ude00").message
        assert batch(logs=line % "é😀").message == Batch(seq=7, oldest=1, at=5, logs=(expected,))

    def test_lone_surrogates_are_replaced(self) -> None:
        """A surrogate without its other half becomes U+FFFD, and nothing else of the batch changes."""
        line = r'{"ref":1,"at":1,"line":0,"stream":"stdout","text":"a\ud800b"}'

        decoded = batch('{"ref":1,"cpu":0.1}', line)

        assert decoded.bad_rows == ()
        assert decoded.message == Batch(
            seq=7, oldest=1, at=5, metrics=(Metric(ref=1, cpu=0.1),),
            logs=(Log(ref=1, at=1, line=0, stream="stdout", text="a\ufffdb"),),
        )  # fmt: skip
        assert decode_live_request(r'{"type":"subscribe","topics":["\udfff"]}') == Subscribe(topics=("\ufffd",))


class TestRows:
    """What costs one row."""

    @pytest.mark.parametrize(
        ("fields", "detail"),
        [
            ('"cpu":NaN', 'cpu = "NaN": Expected `float | null`, got `str`'),
            ('"cpu":Infinity', 'cpu = "Infinity": Expected `float | null`, got `str`'),
            ('"cpu":-Infinity', 'cpu = "-Infinity": Expected `float | null`, got `str`'),
            ('"cpu":1e999', "cpu = Infinity: Expected `float` <= 1000000.0"),
            ('"cpu":1e9', "cpu = 1000000000.0: Expected `float` <= 1000000.0"),
            ('"cpu":-0.1', "cpu = -0.1: Expected `float` >= 0.0"),
            ('"cpu":true', "cpu = true: Expected `float | null`, got `bool`"),
            ('"mem":-1', "mem = -1: Expected `int` >= 0"),
            ('"mem":9223372036854775808', f"mem = 9223372036854775808: Expected `int` <= {MAX_INT64}"),
            ('"rx":99999999999999999999999', f"rx = 99999999999999999999999: Expected `int` <= {MAX_INT64}"),
            ('"tx":1.5', "tx = 1.5: Expected `int | null`, got `float`"),
            ('"tx":1e999', "tx = Infinity: Expected `int | null`, got `float`"),
            ('"mem":[1]', "mem = [1]: Expected `int | null`, got `array`"),
            ('"at":-1', "at = -1: Expected `int` >= 0"),
        ],
    )
    def test_a_bad_value_costs_its_row_only(self, fields: str, detail: str) -> None:
        """The row is named with field, value and expectation; its neighbours are read, and keep their places."""
        at = -1 if "at" in fields else 9
        fields = fields if "at" in fields else f'{fields},"at":9'

        decoded = batch(f'{{"ref":1}},{{"ref":2,{fields}}},{{"ref":3}}')

        assert decoded == Decoded(
            Batch(seq=7, oldest=1, at=5, metrics=(Metric(ref=1), Metric(ref=3))),
            (BadRow("metrics[1]", detail, ref=2, at=at),),
            {"metrics": (0, 2), "logs": ()},
        )

    @pytest.mark.parametrize(
        ("row", "bad"),
        [
            ("{}", BadRow("metrics[0]", "Object missing required field `ref`")),
            ("5", BadRow("metrics[0]", "Expected `object`, got `int`")),
            ("null", BadRow("metrics[0]", "Expected `object`, got `null`")),
            ("[1,2]", BadRow("metrics[0]", "Expected `object`, got `array`")),
            ('{"ref":2147483648}', BadRow("metrics[0]", "ref = 2147483648: Expected `int` <= 2147483647", ref=2**31)),
            ('{"ref":-1}', BadRow("metrics[0]", "ref = -1: Expected `int` >= 0", ref=-1)),
            ('{"ref":"a"}', BadRow("metrics[0]", 'ref = "a": Expected `int`, got `str`')),
            (f'{{"ref":{2**63}}}', BadRow("metrics[0]", f"ref = {2**63}: Expected `int` <= 2147483647")),
        ],
    )
    def test_a_row_that_is_none(self, row: str, bad: BadRow) -> None:
        """What is no row at all is named by its place, and by its ref if that fits the wire."""
        assert batch(f'{row},{{"ref":1}}').bad_rows == (bad,)

    @pytest.mark.parametrize(
        ("fields", "detail_start", "line"),
        [
            ({"line": -1}, "line = -1: Expected `int` >= 0", -1),
            ({"line": 2**31}, f"line = {2**31}: Expected `int` <= 2147483647", 2**31),
            ({"stream": "stdlog"}, 'stream = "stdlog": ', 4),
            ({"text": None}, "text = null: Expected `str`, got `null`", 4),
            ({"text": 5}, "text = 5: Expected `str`, got `int`", 4),
            ({"partial": "yes"}, 'partial = "yes": Expected `bool`, got `str`', 4),
        ],
    )
    def test_a_bad_line_is_named_with_its_ordinal(self, fields: dict[str, Any], detail_start: str, line: int) -> None:
        """Ref, time and ordinal of a line that cannot be read are told as far as they can."""
        good: dict[str, Any] = {"ref": 3, "at": 8, "line": 4, "stream": "stdout", "text": "x"}

        decoded = batch('{"ref":1}', f"{json.dumps(good | fields)},{json.dumps(good)}")

        (bad,) = decoded.bad_rows
        assert (bad.path, bad.ref, bad.at, bad.line) == ("logs[0]", 3, 8, line)
        assert bad.detail.startswith(detail_start)
        assert decoded.positions == {"metrics": (0,), "logs": (1,)}

    def test_a_detail_is_short(self) -> None:
        """The value found is shown up to 80 characters."""
        (bad,) = batch(json.dumps({"ref": 1, "cpu": "x" * 100_000})).bad_rows

        assert len(bad.detail) < 200

    def test_a_bad_container_costs_that_container(self) -> None:
        """In hello and inventory the other containers are taken."""
        good = {"ref": 1, "id": ID, "name": "a", "image": "i", "state": "running"}
        rows = [good | {"id": "A" * 64}, good | {"name": ""}, good | {"labels": {"a": 1}}, good]
        hello = {
            "type": "hello", "protocol": 1, "epoch": "6f1c1f0a-2b7d-4c59-9a40-0d6a51c1b9e2", "connection": 1,
            "machine_id": "m", "oldest": 1, "next_seq": 1, "agent_version": "", "hostname": "", "cores": 1,
        }  # fmt: skip

        greeting = decode_agent_message(json.dumps(hello | {"containers": rows}))
        inventory = decode_agent_message(json.dumps({"type": "inventory", "at": 1, "upserts": rows}))

        assert isinstance(greeting.message, Hello)
        assert isinstance(inventory.message, Inventory)
        assert [known.ref for known in greeting.message.containers] == [1]
        assert greeting.message.containers == inventory.message.upserts
        assert [row.path for row in greeting.bad_rows] == ["containers[0]", "containers[1]", "containers[2]"]
        assert greeting.bad_rows[2].detail == "labels[...]: Expected `str`, got `int`"
        assert [row.path for row in inventory.bad_rows] == ["upserts[0]", "upserts[1]", "upserts[2]"]

    def test_a_pulse_keeps_its_good_rows(self) -> None:
        """The same for a pulse."""
        decoded = decode_agent_message('{"type":"pulse","at":1,"metrics":[{"ref":0,"cpu":NaN},{"ref":1}]}')

        assert decoded.message == Pulse(at=1, metrics=(Metric(ref=1),))
        assert [row.path for row in decoded.bad_rows] == ["metrics[0]"]


class TestOtherDirections:
    """Requests of browsers, and what clients read."""

    @pytest.mark.parametrize(
        ("frame", "code", "message"),
        [
            ('{"type":"subscribe","topics":[]}', "bad_request", "topics = []: Expected `array` of length >= 1"),
            ('{"type":"subscribe","topics":["a",5]}', "bad_request", "topics[1] = 5: Expected `str`, got `int`"),
            ('{"type":"subscribe","topics":["a"],"tail":10001}', "bad_request", "tail = 10001: Expected `int` <= 10000"),
            (
                '{"type":"hello"}', "unknown_type",
                'type = "hello": expected one of subscribe, unsubscribe, pause, resume, heartbeat',
            ),
            ("[" * 100_000, "bad_request", "not readable as JSON: nested too deeply"),
        ],
    )  # fmt: skip
    def test_bad_requests(self, frame: str, code: str, message: str) -> None:
        """A browser's bad request is answered like an agent's."""
        with pytest.raises(FrameError) as caught:
            decode_live_request(frame)

        assert (caught.value.error.code, caught.value.error.message) == (code, message)

    @pytest.mark.parametrize(
        "frame", ["{}", "[]", '{"type":"batch"}', '{"type":"ack","seq":-1}', "[" * 100_000, "\ufeff{}"]
    )
    def test_clients_refuse_garbage_too(self, frame: str) -> None:
        """What a server sends is read strictly, and never with another error than FrameError."""
        for decode in (decode_agent_command, decode_live_event):
            with pytest.raises(FrameError):
                decode(frame)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
fields = st.sampled_from(
    [
        "seq",
        "oldest",
        "at",
        "metrics",
        "logs",
        "ref",
        "cpu",
        "mem",
        "line",
        "text",
        "stream",
        "containers",
        "epoch",
        "topics",
    ]
)
types = st.sampled_from(["hello", "inventory", "batch", "pulse", "action_result", "heartbeat", "bye", "subscribe", "x"])
rows = st.lists(st.dictionaries(fields, json_values, max_size=5) | json_values, max_size=4)


def outcome(decode: Callable[[str], Any], frame: str) -> Any:
    """The message of a frame, or the error that answers it."""
    try:
        decoded = decode(frame)
    except FrameError as error:
        return error.error
    return decoded.message if isinstance(decoded, Decoded) else decoded


class TestAnything:
    """No text, however made, ends in another exception, and every outcome can be sent."""

    @settings(max_examples=300, deadline=None)
    @given(st.text(max_size=200))
    def test_text(self, frame: str) -> None:
        """Any text is a message or a FrameError."""
        for decode in (decode_agent_message, decode_live_request, decode_agent_command, decode_live_event):
            assert encode(outcome(decode, frame))

    @settings(max_examples=500, deadline=None)
    @given(types, st.dictionaries(fields, json_values | rows, max_size=8))
    def test_json(self, message_type: str, content: dict[str, Any]) -> None:
        """Any JSON object is a message, with its bad rows, or a FrameError."""
        frame = json.dumps({"type": message_type} | content)
        for decode in (decode_agent_message, decode_live_request):
            assert encode(outcome(decode, frame))
