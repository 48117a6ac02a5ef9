"""docs/simulator.md names everything there is."""

import inspect
import re
from pathlib import Path
from typing import get_args

import msgspec

from simulator import ledger
from simulator.cli import simulate

DOCUMENT = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text()


def test_every_option_is_documented() -> None:
    """Each option of the command has its row."""
    documented = set(re.findall(r"^\| `(--[a-z-]+)` \|", DOCUMENT, re.MULTILINE))
    options = {f"--{name.replace('_', '-')}" for name in inspect.signature(simulate).parameters}

    assert documented == options - {"--context", "--as-json", "--history"} | {"--json", "--continue"}


def test_every_ledger_record_is_documented_with_its_fields() -> None:
    """Each record type has its row, and the row its fields."""
    for record in get_args(ledger.Record):
        assert issubclass(record, msgspec.Struct)
        fields = ", ".join(sorted(record.__struct_fields__))
        row = re.search(rf"^\| `{record.__struct_config__.tag}` \| ([a-z0-9_, ]+) \|", DOCUMENT, re.MULTILINE)
        assert row is not None, record
        assert ", ".join(sorted(row[1].split(", "))) == fields


def test_every_status_is_documented() -> None:
    """Each answer of the ledger has its row."""
    for status in ledger.Status:
        assert f"| `{status}` |" in DOCUMENT
