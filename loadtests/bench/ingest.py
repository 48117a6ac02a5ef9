"""`bench ingest`: the whole pipeline beside the raw limit of COPY, both taken in one run on one machine."""

import asyncio
from dataclasses import replace
from pathlib import Path

from loadtests.bench.figures import Figure, Report, options_told
from loadtests.bench.ingest_limit import search
from loadtests.bench.ingest_load import Load, Options, load_once
from loadtests.fingerprint import environment


async def run(options: Options, directory: Path, *, find_limit: bool) -> Report:
    """Load, verify, compare with raw COPY; with `find_limit` again with more containers until a load does not hold.

    Raises:
        StageError, ChildError: the environment could not be set up.
    """
    load = await load_once(options, directory, memory=True)
    figures = _figures(options, load)
    failures = [*load.failures, *load.generator]
    if find_limit:

        async def step(containers: int) -> Load:
            part = directory / f"limit-{containers}"
            part.mkdir()
            return await load_once(replace(options, containers=containers), part, memory=False)

        limit = await search(options.containers, load, step)
        figures += limit.figures()
        failures += limit.failures()
    return Report(
        benchmark="ingest", options={**options_told(options), "find_limit": find_limit},
        environment=await asyncio.to_thread(environment, load.postgres), figures=tuple(figures),
        failures=tuple(dict.fromkeys(failures)),
    )  # fmt: skip


def _figures(options: Options, load: Load) -> list[Figure]:
    ack = load.ack.statistics()
    raw = load.raw.rows_per_second if load.raw else 0.0
    millions, batches = load.rows / 1e6, load.batches / 1e6
    figures = [
        Figure(name="raw_copy", value=raw, unit="rows/s", note=f"{load.raw.rows if load.raw else 0:,} rows, one connection"),
        Figure(name="pipeline", value=load.rows_per_second, unit="rows/s", note=f"over {load.seconds:.0f} s"),
        Figure(name="offered", value=float(options.agents * (options.containers + options.log_lines)), unit="rows/s"),
        Figure(name="pipeline_to_raw", value=load.rows_per_second / raw if raw else None, unit="ratio"),
        *(Figure(name=f"ack_{key}", value=ack.get(key), unit="ms") for key in ("p50", "p99", "max")),
        Figure(name="server_cpu_per_batch", value=_per(load.cpu.get("server"), load.batches, 1e6), unit="us"),
    ]  # fmt: skip
    for name in ("server", "postgres", "fleet"):
        used = load.cpu.get(name)
        note = "" if used is not None else "not visible from here"
        figures += [
            Figure(name=f"{name}_cpu_per_million_rows", value=_per(used, millions), unit="CPU s", note=note),
            Figure(name=f"{name}_cpu_per_million_messages", value=_per(used, batches), unit="CPU s", note=note),
            Figure(name=f"{name}_cores", value=_per(used, load.seconds), unit="cores", note=note),
        ]
    return [
        *figures,
        Figure(name="rss_per_bare_connection", value=_kib(load.bare_rss_bytes), unit="KiB"),
        Figure(name="rss_per_labelled_connection", value=_kib(load.labelled_rss_bytes), unit="KiB"),
        Figure(name="server_rss_per_agent", value=_kib(load.server_rss_bytes / options.agents), unit="KiB", note="all of it"),
        Figure(name="wire_bytes_per_batch", value=load.frames_bytes, unit="B"),
        Figure(name="wal_bytes_per_row", value=_per(load.wal_bytes, load.rows), unit="B"),
        Figure(name="disk_bytes_per_row", value=_per(load.disk_bytes, load.stored_rows), unit="B"),
        *(
            Figure(name=f"ledger_{kind}", value=float(load.findings.counts[kind]), unit="rows")
            for kind in ("missing", "foreign", "altered")
        ),
        Figure(name="ledger_verified_fraction", value=load.findings.verified_fraction, unit="ratio"),
    ]  # fmt: skip


def _per(value: float | None, count: float, factor: float = 1.0) -> float | None:
    return None if value is None or not count else value * factor / count


def _kib(value: float | None) -> float | None:
    return None if value is None else value / 1024
