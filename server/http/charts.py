"""`/api/containers/{id}/metrics`: a container's samples as a chart of at most 360 points or so."""

from collections.abc import Sequence
from typing import Annotated, Literal, Protocol

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from server.agents import now_us
from server.auth.principal import User
from server.http.containers import no_container
from server.http.problems import PROBLEM_RESPONSES, CurrentUser, Refused
from server.http.values import ContainerId, Moment
from server.reads import MINUTE_US, Chart, ChartBucket

MAX_POINTS = 360
_STEPS_SECONDS = (
    1, 2, 5, 10, 15, 30, 60, 120, 240, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400,
)  # fmt: skip
_RANGES_SECONDS = {"15m": 900, "1h": 3600, "6h": 21_600, "24h": 86_400}
_SECOND_US = 1_000_000
_DAY_US = 86_400 * _SECOND_US
_ROLLUP_STEP_SECONDS = MINUTE_US // _SECOND_US
MAX_AHEAD_US = _DAY_US
"""How far `to` may lie ahead: a browser's clock, or its time zone, is off by less."""


class ChartView(BaseModel):
    """Arrays of one length, a bucket of `step_seconds` each; null: nothing is known of it, which is not 0."""

    container: Annotated[str, Field(examples=["4611686018427387904"])]
    series: Annotated[str, Field(examples=["shop/web"])]
    containers: Annotated[int, Field(description="How many containers went into it.", examples=[1])]
    since: Annotated[
        int, Field(serialization_alias="from", description="Start of the first bucket, Unix microseconds.")
    ]
    to: Annotated[int, Field(description="End of the last bucket.")]
    step_seconds: Annotated[int, Field(description="Buckets begin at multiples of it.", examples=[10])]
    at: Annotated[list[int], Field(description="Start of each bucket, Unix microseconds.")]
    samples: Annotated[list[int], Field(description="Samples in each bucket.")]
    cpu_mean: Annotated[list[float | None], Field(description="Percent, 100 = one core.")]
    cpu_max: list[float | None]
    mem_mean: Annotated[list[float | None], Field(description="Bytes.")]
    mem_max: list[int | None]
    rx_per_second: Annotated[list[float | None], Field(description="Bytes received a second.")]
    tx_per_second: Annotated[list[float | None], Field(description="Bytes sent a second.")]


class ChartReads(Protocol):
    """Where charts are read."""

    async def chart(
        self, org: str, container_id: int, *, since: int, until: int, step_us: int, series: bool
    ) -> Chart | None:
        """The buckets with samples; None: the organisation has no such container."""


def router(
    reads: ChartReads, current_user: CurrentUser, *, retention_seconds: float, rollup_seconds: float
) -> APIRouter:
    """The one route.

    Args:
        reads: where charts are read.
        current_user: who asks.
        retention_seconds: how old samples become: before that there are whole minutes at best.
        rollup_seconds: how old those become; it bounds what may be asked for at once.
    """
    routes = APIRouter(prefix="/api/containers", tags=["containers"], responses=PROBLEM_RESPONSES)

    @routes.get(
        "/{container_id}/metrics",
        summary="CPU, memory and network of a container over time",
        description="Either `range`, which ends now, or `from` and `to`, which are widened to whole buckets.",
    )
    async def read_chart(
        container_id: ContainerId,
        user: Annotated[User, Depends(current_user)],
        span: Annotated[
            Literal["15m", "1h", "6h", "24h"] | None, Query(alias="range", description="If nothing is given: 1h.")
        ] = None,
        since: Annotated[
            Moment | None, Query(alias="from", description="Unix microseconds, or RFC 3339; with `to`.")
        ] = None,
        to: Annotated[
            Moment | None, Query(description="Exclusive; at most the rollup's retention after `from`.")
        ] = None,
        merge: Annotated[
            Literal["series", "container"],
            Query(description="series: with those it replaced, or that replaced it; container: it alone."),
        ] = "series",
    ) -> ChartView:
        if span is not None and (since is not None or to is not None):
            raise _wrong("range", span, "either range, or from and to")
        if since is None and to is None:
            start, end, step = _recent(_RANGES_SECONDS[span or "1h"])
        else:
            start, end, step = _between(since, to, retention_seconds, rollup_seconds)
        chart = await reads.chart(
            user.org, container_id, since=start, until=end, step_us=step * _SECOND_US, series=merge == "series"
        )
        if chart is None:
            raise no_container(container_id)
        return _view(container_id, chart, start, end, step)

    return routes


def step_seconds(span_us: int) -> int:
    """The step of a chart of this span: the first of the nice ones with at most `MAX_POINTS` points, else whole days."""
    for step in _STEPS_SECONDS:
        if span_us <= step * _SECOND_US * MAX_POINTS:
            return step
    return -(-span_us // (_DAY_US * MAX_POINTS)) * 86_400


def _recent(seconds: int) -> tuple[int, int, int]:
    step = step_seconds(seconds * _SECOND_US)
    step_us = step * _SECOND_US
    end = -(-now_us() // step_us) * step_us
    return end - seconds * _SECOND_US, end, step


def _between(
    since: int | None, to: int | None, retention_seconds: float, rollup_seconds: float
) -> tuple[int, int, int]:
    if since is None or to is None:
        raise _wrong("from" if since is None else "to", None, "both from and to")
    if since >= to:
        raise _wrong("from", since, f"a time before to = {to}")
    if to > now_us() + MAX_AHEAD_US:
        raise _wrong("to", to, "a time that is not in the future")
    if to - since > rollup_seconds * _SECOND_US:
        raise _wrong("from", since, f"at most the retention before to = {to}: {rollup_seconds:g} s")
    step = step_seconds(to - since)
    if since < now_us() - retention_seconds * _SECOND_US:
        step = max(step, _ROLLUP_STEP_SECONDS)
    step_us = step * _SECOND_US
    return since // step_us * step_us, -(-to // step_us) * step_us, step


def _wrong(field: str, value: object, expected: str) -> Refused:
    shown = field if value is None else f"{field} = {value}"
    return Refused(
        422, "invalid_request", f"{shown}: expected {expected}",
        errors=[{"place": "query", "field": field, "value": value, "expected": expected}],
    )  # fmt: skip


def _view(container_id: int, chart: Chart, start: int, end: int, step: int) -> ChartView:
    at = list(range(start, end, step * _SECOND_US))
    found = {bucket.at: bucket for bucket in chart.buckets}
    buckets: Sequence[ChartBucket] = [found.get(moment) or _nothing(moment) for moment in at]
    return ChartView(
        container=str(container_id), series=chart.series, containers=chart.containers, since=start, to=end,
        step_seconds=step, at=at, samples=[bucket.samples for bucket in buckets],
        cpu_mean=[bucket.cpu_mean for bucket in buckets], cpu_max=[bucket.cpu_max for bucket in buckets],
        mem_mean=[bucket.mem_mean for bucket in buckets], mem_max=[bucket.mem_max for bucket in buckets],
        rx_per_second=[bucket.rx_per_second for bucket in buckets],
        tx_per_second=[bucket.tx_per_second for bucket in buckets],
    )  # fmt: skip


def _nothing(at: int) -> ChartBucket:
    return ChartBucket(at, 0, None, None, None, None, None, None)
