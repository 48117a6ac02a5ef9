"""`seatrial simulate`: the fleet as a command."""

import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from simulator.plan import Plan
    from simulator.scenario_faults import Fault
    from simulator.status import Status

_USAGE, _ENVIRONMENT, _INVALID, _INTERRUPTED = 2, 3, 12, 130


def simulate(
    context: typer.Context,
    url: Annotated[str, typer.Option(help="The server: ws://host:port.")] = "ws://127.0.0.1:8000",
    agents: Annotated[int, typer.Option(help="Simulated agents.")] = 100,
    containers: Annotated[int, typer.Option(help="Containers of each agent.")] = 5,
    interval: Annotated[str, typer.Option(help="Time between two samples: 250ms, 1s, 2m.")] = "1s",
    log_lines: Annotated[int, typer.Option(help="Log lines of each agent in an interval.")] = 1,
    profiles: Annotated[
        str, typer.Option(help="What the containers do: web=4,idle=2. Default: a realistic mix of all profiles.")
    ] = "",
    churn_per_hour: Annotated[float, typer.Option(help="Containers of an agent that are re-created in an hour.")] = 0.0,
    troubled_commands: Annotated[
        float, typer.Option(help="Share of the commands that are carried out late, or refused.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of every generated value.")] = 1,
    duration: Annotated[str | None, typer.Option(help="How long, the ramp included. Default: until stopped.")] = None,
    ramp: Annotated[str, typer.Option(help="Time over which the agents connect.")] = "5s",
    warm_up: Annotated[
        str, typer.Option(help="Latencies of this time from the start are left out of the report.")
    ] = "0s",
    org: Annotated[str, typer.Option(help="Organisation of the agents.")] = "demo",
    organisations: Annotated[
        int, typer.Option(help="Organisations to which the agents belong in turn: demo-1, demo-2 ...")
    ] = 1,
    first_agent: Annotated[int, typer.Option(help="Number of the first agent; for a second fleet.")] = 1,
    processes: Annotated[int, typer.Option(help="Split the fleet over so many processes of this machine.")] = 1,
    shard: Annotated[str, typer.Option(help="Run only this part of the fleet: 2/3; for several machines.")] = "1/1",
    start_at: Annotated[
        str | None, typer.Option(help="When it begins, such as 2026-01-31T12:00:00Z; equal for all shards.")
    ] = None,
    source_addresses: Annotated[
        str | None,
        typer.Option(help="Connect from so many addresses of 127.0.0.0/8, or from these: 10.0.0.5,10.0.0.6."),
    ] = None,
    transport: Annotated[str, typer.Option(help="WebSocket client: picows or websockets.")] = "picows",
    ledger: Annotated[Path | None, typer.Option(help="Write what was done to this new file.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write the final figures to this file, as JSON.")] = None,
    history: Annotated[
        Path | None, typer.Option("--continue", help="Go on where the history of this backfill's ledger ends.")
    ] = None,
    replay: Annotated[Path | None, typer.Option(help="Send what is in this recording.")] = None,
    times: Annotated[int, typer.Option(help="With --replay: how many hosts send what each recorded agent sent.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per second on standard output.")] = False,
    describe: Annotated[bool, typer.Option("--describe", help="Tell what would be sent, and send nothing.")] = False,
    scenario: Annotated[
        Path | None, typer.Option(help="With --describe: take the fleet and the faults from this file.")
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(help="Serve the fleet's figures to Prometheus on this port of 127.0.0.1; 0: a free one."),
    ] = None,
    split_cpu: Annotated[
        bool, typer.Option("--split-cpu", help="Measure what making rows costs; that takes 1 us a message.")
    ] = False,
    jwt_secret: Annotated[
        str, typer.Option(envvar="SEATRIAL_JWT_SECRET", show_envvar=True, help="Signs the agents' tokens.")
    ] = "",
    signing_key: Annotated[
        Path | None,
        typer.Option(
            envvar="SEATRIAL_JWT_SIGNING_KEY",
            show_envvar=True,
            help="PEM file of a private key that signs them instead; the server has its public half.",
        ),
    ] = None,
    kid: Annotated[
        str | None,
        typer.Option(envvar="SEATRIAL_JWT_SIGNING_KID", show_envvar=True, help="kid of that key, with which it goes."),
    ] = None,
    token_lifetime: Annotated[str, typer.Option(help="How long a token is valid.")] = "1h",  # noqa: S107 - a duration
    spool_bytes: Annotated[int, typer.Option(help="What an agent holds at most while it cannot send.")] = 8 << 20,
    spool_age: Annotated[str, typer.Option(help="How long an agent holds a batch at most.")] = "10m",
    refused_retry: Annotated[
        str, typer.Option(help="Shortest pause after 401, 403 or 45xx; the longest is twice it.")
    ] = "5m",
    fault: Annotated[
        list[str] | None,
        typer.Option(help="Let something go wrong: disconnect:at=10s,fraction=0.1. May be given any number of times."),
    ] = None,
    i_own_this: Annotated[bool, typer.Option("--i-own-this", help="Allow a server on another machine.")] = False,
) -> None:
    """Simulate a fleet of agents against a server.

    Exit code: 0 done, 2 wrong usage, 3 no agent could ever connect, 12 the fleet itself was the bottleneck, 130
    interrupted.
    """
    from simulator.fault_option import parse_faults
    from simulator.ledger import ledger_files
    from simulator.link import Transport
    from simulator.plan import Plan, PlanError, agent_url, parse_shard
    from simulator.processes import check_processes
    from simulator.profiles import DEFAULT_MIX, MixError, parse_mix
    from simulator.recording import RecordingError
    from simulator.scenario_format import ScenarioError
    from simulator.sources import check_usable
    from simulator.sources import source_addresses as sources
    from simulator.tokens import read_key

    try:
        if scenario is not None and not describe:
            raise PlanError("scenario", scenario, "--describe beside it; `seatrial run` runs a scenario")
        if scenario is not None and (history is not None or replay is not None):
            raise PlanError(
                "scenario", scenario, "neither --continue nor --replay beside it: it says itself what is sent"
            )
        try:
            mix = parse_mix(profiles) if profiles else DEFAULT_MIX
        except MixError as error:
            raise PlanError("profiles", profiles, str(error)) from None
        duration_us = None if duration is None else _micros("duration", duration)
        refused_seconds, spool_us = _micros("refused-retry", refused_retry) / 1e6, _micros("spool-age", spool_age)
        sent: dict[str, Any] = {
            "agents": agents,
            "containers": containers,
            "log_lines": log_lines,
            "interval_us": _micros("interval", interval),
            "profiles": mix,
            "churn_per_hour": churn_per_hour,
        }
        named = {"org": org, "first_agent": first_agent, "seed": seed}
        if split_cpu and replay is not None:
            raise PlanError("split-cpu", "on", "no --replay beside it: rows are not made")
        sent, once_us = _sent(context, sent, named, history=history, replay=replay, times=times, spool_us=spool_us)
        ramp_us = _micros("ramp", ramp)
        if duration_us is None and once_us is not None:
            duration_us = once_us + ramp_us  # the last host begins when the ramp is over
            sent["replay_once"] = True
        faults = parse_faults(fault or (), None if duration_us is None else duration_us / 1e6, sent["agents"])
        if describe:
            typer.echo(_described(sent, duration_us, faults, scenario, as_json=as_json))
            return
        if transport not in tuple(Transport):
            raise PlanError("transport", transport, " or ".join(Transport))
        target = agent_url(url, any_host=i_own_this)
        if organisations != 1 and history is not None:
            raise PlanError("organisations", organisations, "1 beside --continue: a history has one")
        plan = Plan(
            url=target,
            secret=jwt_secret if signing_key is None else read_key(signing_key, kid),
            kid=None if signing_key is None else kid,
            **sent,
            shard=parse_shard(shard),
            source_addresses=sources(source_addresses, target, sent["agents"]),
            troubled_commands=troubled_commands,
            organisations=organisations,
            duration_us=duration_us,
            ramp_us=ramp_us,
            warm_up_us=_micros("warm-up", warm_up),
            transport=Transport(transport),
            token_seconds=_micros("token-lifetime", token_lifetime) // 1_000_000,
            spool_bytes=spool_bytes,
            spool_us=spool_us,
            refused_seconds=(refused_seconds, 2 * refused_seconds),
            split_cpu=split_cpu,
            faults=faults,
        )
        check_processes(plan, processes)
        check_usable(plan.source_addresses)
        start_us = None if start_at is None else _moment("start-at", start_at)
        for name, path in (("ledger", ledger), ("report", report)):
            if path is not None and not path.parent.is_dir():
                raise PlanError(name, path, "a file in a directory that exists")
        for path in () if ledger is None else ledger_files(ledger, processes):
            if path.exists():
                raise PlanError("ledger", path, "a file that does not exist yet")
        code = _run(plan, processes, ledger, report, start_us, as_json=as_json, metrics_port=metrics_port)
    except (PlanError, RecordingError, ScenarioError) as error:
        _fail(_USAGE, str(error))
    raise typer.Exit(code)


def _described(
    sent: Mapping[str, Any], duration_us: int | None, faults: Sequence["Fault"], scenario: Path | None, *, as_json: bool
) -> str:
    """What would be sent: by a scenario's fleet if there is one, else by that of these fields of a plan.

    Raises:
        PlanError, RecordingError, ScenarioError: there is no such fleet.
    """
    from dataclasses import fields

    import msgspec

    from simulator.describe import Description, describe, workload_of
    from simulator.describe_replay import ReplayDescription, describe_replay
    from simulator.recorded_agents import open_replayed
    from simulator.scenario import load
    from simulator.workload import Workload

    told: Description | ReplayDescription
    texts = [fault.describe() for fault in faults]
    duration_seconds = None if duration_us is None else duration_us / 1e6
    if scenario is not None:
        loaded = load(scenario)
        told = describe(workload_of(loaded), loaded.duration_seconds, [fault.describe() for fault in loaded.faults])
    elif "replayed" in sent:
        replayer = {name: sent[name] for name in ("agents", "first_agent", "seed")}
        told = describe_replay(open_replayed(sent["replayed"]), duration_seconds, texts, **replayer)
    else:
        told = describe(
            Workload(**{field.name: sent[field.name] for field in fields(Workload)}), duration_seconds, texts
        )
    return msgspec.json.encode(told).decode() if as_json else "\n".join(told.lines())


def _run(
    plan: "Plan",
    processes: int,
    ledger: Path | None,
    report_path: Path | None,
    start_us: int | None,
    *,
    as_json: bool,
    metrics_port: int | None,
) -> int:
    from contextlib import ExitStack

    import msgspec

    from simulator.running import run_here, run_processes
    from simulator.view import View

    with ExitStack() as stack:
        exposition = None
        if metrics_port is not None:
            from simulator.exposition import ADDRESS, Exposition

            exposition = stack.enter_context(Exposition(metrics_port))
            if not metrics_port:
                sys.stderr.write(f"figures on http://{ADDRESS}:{exposition.port}/metrics\n")
        view = stack.enter_context(View(as_json=as_json, title=f"{len(plan.numbers):,} agents at {plan.url}"))

        def tell(status: "Status") -> None:
            view.show(status)
            if exposition is not None:
                exposition.update(status)

        try:
            if processes == 1:
                received, final, failures = run_here(plan, ledger, start_us, tell)
            else:
                received, final, failures = run_processes(plan, processes, ledger, start_us, tell)
        except OSError as error:
            _fail(_ENVIRONMENT, f"ledger = {ledger}: {error.strerror or error}: expected a file that can be written")
    if report_path is not None and final is not None:
        report_path.write_bytes(msgspec.json.format(msgspec.json.encode(final)) + b"\n")
    sys.stderr.writelines(f"{failure}\n" for failure in failures)
    if failures:
        return _ENVIRONMENT
    return _exit_code(final, received)


def _exit_code(report: dict[str, Any] | None, received: list[signal.Signals]) -> int:
    if received and received[0] is signal.SIGINT:
        return _INTERRUPTED
    if report is None:  # stopped before there was anything
        return 0
    # Stopped before the first answer came: nothing is known against the server.
    if not report["welcomes"] and (report["refused"] or report["closes"] or not received):
        refused = ", ".join(f"{count} x {what}" for what, count in report["refused"].items())
        sys.stderr.write(f"no agent could connect to {report['url']}: {refused or 'no welcome'}\n")
        return _ENVIRONMENT
    if report["invalid"]:
        sys.stderr.writelines(f"invalid: {reason}\n" for reason in report["invalid"])
        return _INVALID
    return 0


def _moment(field: str, text: str) -> int:
    """A time to come, such as `2026-01-31T12:00:00Z`, in Unix microseconds."""
    from datetime import UTC, datetime, timedelta

    from simulator.plan import PlanError

    now = datetime.now(UTC)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise PlanError(field, text, "a time with its zone, such as 2026-01-31T12:00:00Z")
    if not now < found <= now + timedelta(days=1):
        raise PlanError(field, text, f"a time within the next day; it is {now:%Y-%m-%dT%H:%M:%SZ}")
    return round(found.timestamp() * 1_000_000)


def _sent(
    context: typer.Context,
    sent: dict[str, Any],
    named: dict[str, Any],
    *,
    history: Path | None,
    replay: Path | None,
    times: int,
    spool_us: int,
) -> tuple[dict[str, Any], int | None]:
    """What is sent, as fields of a plan, and how long a host takes for it in microseconds; None: there is no end.

    Args:
        context: of the command.
        sent: what the seed makes, as the options say it.
        named: who sends it.
        history: that is continued.
        replay: a recording that is sent instead.
        times: how many hosts send what each recorded agent sent.
        spool_us: how much of the time since the history's end can be made up for.

    Raises:
        PlanError, RecordingError: options that do not go together, or a file that cannot be used.
    """
    from simulator.continuing import read_history
    from simulator.errors import PlanError
    from simulator.recorded_agents import read_recording

    if replay is None and _given(context, {"times": times}):
        raise PlanError("times", times, "--replay beside it")
    if history is not None:
        if replay is not None:
            raise PlanError("replay", replay, "nothing beside --continue")
        known = read_history(history, now_us=time.time_ns() // 1000, spool_us=spool_us)
        return known.plan_fields(_given(context, sent | named)), None
    if replay is not None:
        recording = read_recording(replay)
        return recording.plan_fields(times, _given(context, sent)) | named, recording.period_us
    return sent | named, None


def _given(context: typer.Context, fields: dict[str, Any]) -> dict[str, Any]:
    """Of some fields of a plan those that stand on the command line."""
    return {
        field: value
        for field, value in fields.items()
        if (source := context.get_parameter_source(field.removesuffix("_us"))) is not None
        and source.name == "COMMANDLINE"
    }


def _micros(field: str, text: str) -> int:
    """A duration such as `250ms` in microseconds."""
    from simulator.plan import PlanError
    from simulator.scenario_format import parse_duration

    try:
        return round(parse_duration(text) * 1_000_000)
    except ValueError as error:
        raise PlanError(field, text, str(error).removeprefix("expected ")) from None


def _fail(code: int, message: str) -> NoReturn:
    sys.stderr.write(f"{message}\n")
    raise typer.Exit(code)
