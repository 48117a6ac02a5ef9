"""The JSON Schema of a scenario file, made of the format's own types, for editors that check and complete TOML by it.

It knows keys, types, words and ranges. What it cannot say (a duration's range, what goes together) `seatrial run` tells.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from loadtests.catalogue import METRICS, STATISTICS, has_phases
from simulator.fault_kinds import FAULTS
from simulator.scenario_format import (
    ENV_NAME,
    ENV_SET_ELSEWHERE,
    FAULT_KEYS,
    KEYS,
    PHASES,
    POSTGRES_NAME,
    THRESHOLD_KEYS,
    Key,
)
from simulator.scenario_thresholds import NO_THRESHOLD
from simulator.scenario_values import Schema

_THRESHOLD = {"$ref": "#/$defs/threshold"}
_TABLES = {
    "server.env": "Further settings of the server (docs/settings.md), as texts.",
    "postgres": "Settings of the run's own Postgres, as in postgresql.conf, as texts.",
    "thresholds": 'When the outcome is good: `metric.statistic = "comparison number"` (docs/verdict.md).',
    "fault": "What breaks, and when.",
}


def scenario_schema() -> Schema:
    """The schema, draft 2020-12."""
    root = _table({})
    for key, known in KEYS.items():
        *sections, leaf = key.split(".")
        table = root
        for section in sections:
            table = table["properties"].setdefault(section, _table({}))
        table["properties"][leaf] = _key(known)
    root["properties"]["server"]["properties"]["env"] = _environment()
    root["properties"]["postgres"] = _postgres()
    root["properties"]["fault"] = _faults()
    root["properties"]["thresholds"] = _thresholds()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A scenario of Seatrial",
        **root,
        "anyOf": [{"required": ["question"]}, {"required": ["extends"]}],
        "$defs": {
            "threshold": _threshold(),
            **{kind: _table(dict.fromkeys(statistics, _THRESHOLD)) for kind, statistics in STATISTICS.items()},
        },
    }


def _table(properties: Mapping[str, Schema], **more: Any) -> Schema:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False, **more}


def _key(known: Key) -> Schema:
    found = {"description": f"{known.meaning} {known.kind.told().capitalize()}.", **known.kind.schema()}
    return found if known.default in {..., None} else found | {"default": known.default}


def _environment() -> Schema:
    return {
        "description": _TABLES["server.env"],
        "type": "object",
        "patternProperties": {f"^{ENV_NAME.pattern}$": {"type": "string"}},
        "propertyNames": {"not": {"enum": list(ENV_SET_ELSEWHERE)}},
        "additionalProperties": False,
    }


def _postgres() -> Schema:
    name, value = f"^{POSTGRES_NAME.pattern}$", {"type": "string", "minLength": 1}
    qualified = _table({}, patternProperties={name: value}, description="Of an extension.")
    return _table({}, patternProperties={name: {"anyOf": [value, qualified]}}, description=_TABLES["postgres"])


def _faults() -> Schema:
    one = _table({name: _key(known) for name, known in FAULT_KEYS.items()}, required=["at", "kind"])
    one["allOf"] = [
        {
            "if": {"properties": {"kind": {"const": name}}, "required": ["kind"]},
            "then": {"description": kind.meaning, "propertyNames": {"enum": ["at", "kind", *kind.keys]}},
        }
        for name, kind in FAULTS.items()
    ]
    return {"description": _TABLES["fault"], "type": "array", "items": one}


def _threshold() -> Schema:
    bound = THRESHOLD_KEYS["bound"].kind.schema()
    parts = _table({name: _key(known) for name, known in THRESHOLD_KEYS.items()}, minProperties=1)
    return {"anyOf": [bound, {"const": NO_THRESHOLD, "description": "Takes out what an extended file asks."}, parts]}


def _thresholds() -> Schema:
    whole = _bounds(list(METRICS), PHASES)
    in_phases = _bounds([name for name in METRICS if has_phases(name)], ())
    whole["properties"] |= dict.fromkeys(PHASES, in_phases)
    return {"description": _TABLES["thresholds"], **whole}


def _told(name: str) -> str:
    metric = METRICS[name]
    return f"{metric.meaning} In {metric.unit}." if metric.unit else metric.meaning


def _bounds(names: list[str], phases: tuple[str, ...]) -> Schema:
    """A table of metrics, each of its statistics; a key may also be a quoted `metric.statistic`."""
    tables = {name: {"description": _told(name), "$ref": f"#/$defs/{METRICS[name].kind}"} for name in names}
    before = f"(({'|'.join(phases)})\\.)?" if phases else ""
    quoted = {
        f"^{before}({'|'.join(mine)})\\.({'|'.join(statistics)})$": _THRESHOLD
        for kind, statistics in STATISTICS.items()
        if (mine := [name for name in names if METRICS[name].kind == kind])
    }
    return _table(tables, patternProperties=quoted)


if __name__ == "__main__":
    import sys

    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(scenario_schema()), indent=2) + b"\n")
