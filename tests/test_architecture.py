"""The arrows between the parts."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_only_strategies_name_their_tables() -> None:
    """Samples and log lines are read and written through the storage interface: the next strategy keeps them elsewhere."""
    named = [
        str(path.relative_to(ROOT))
        for package in ("server", "loadtests", "simulator")
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"\bcontainer_(metric|log)\b", path.read_text()) and "storage" not in path.parts
    ]
    assert named == []


def test_the_import_contracts_hold() -> None:
    """Every contract of pyproject.toml is kept."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True,
        check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("server.protocol.codec", {"fastapi", "asyncpg", "pydantic", "uvicorn"}),
        ("server.ingest", {"fastapi", "starlette", "asyncpg"}),
        ("simulator.fleet", {"fastapi", "asyncpg", "locust"}),
        ("seatrial", {"fastapi", "asyncpg", "numpy", "faker", "locust", "picows", "matplotlib"}),
        ("loadtests.run", {"matplotlib", "jinja2", "locust", "gevent"}),
    ],
)
def test_importing_loads_no_more_than_it_must(module: str, absent: set[str]) -> None:
    """What a part does not need is not loaded with it."""
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )

    assert not absent & set(loaded.stdout.split())
