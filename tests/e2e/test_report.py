"""The report in a real browser, where there is one."""

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from loadtests.report.page import write_report
from tests.support.results import HOSTILE, made_result

CHROMIUM = os.environ.get("SEATRIAL_TEST_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
WHY = "no chromium was found; SEATRIAL_TEST_CHROMIUM names one"


@pytest.fixture
async def browser() -> AsyncIterator[Any]:
    """A Chromium of the system."""
    if CHROMIUM is None:
        pytest.skip(WHY)
    playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
    async with playwright.async_playwright() as engine:
        running = await engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield running
        finally:
            await running.close()


async def test_the_report_opens_offline_at_every_width_light_and_dark(browser: Any, tmp_path: Path) -> None:
    """No request but the file, no word on the console, nothing wider than the screen, and the verdict is seen first."""
    thresholds = ('ack_latency_ms.p99 = "< 100"', 'after.ack_latency_ms.p99 = "< 100"')
    result = made_result(
        tmp_path, *thresholds, question=f"{HOSTILE} {'unbroken' * 40}", hostile=HOSTILE + "x" * 300, invalid=("late",)
    )
    url = write_report(result, tmp_path).as_uri()
    backgrounds = set()
    for width, scheme in ((1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")):
        page = await browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message, said=said: said.append(message.text))
        page.on("pageerror", lambda error, said=said: said.append(str(error)))
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        await page.goto(url)
        heading = await page.locator("h1").bounding_box()
        seen = await page.evaluate(
            "[...document.querySelectorAll('svg')].filter(e => e.getBoundingClientRect().width).length"
        )
        clipped = await page.evaluate(
            """[...document.querySelectorAll('svg text')].filter(e => {
                const text = e.getBoundingClientRect(), box = e.ownerSVGElement.getBoundingClientRect();
                return text.width && (text.left < box.left - 1 || text.right > box.right + 1);
            }).map(e => e.textContent)"""
        )

        assert await page.evaluate("document.documentElement.scrollWidth") == width
        assert (said, asked) == ([], [url])
        assert heading["y"] + heading["height"] < 200
        assert "Invalid" in await page.locator("h1").inner_text()
        assert seen == 9
        assert clipped == []
        backgrounds.add(await page.evaluate("getComputedStyle(document.body).backgroundColor"))
        await page.close()

    assert len(backgrounds) == 2
