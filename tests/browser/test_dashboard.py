"""The local dashboard as `hpz dashboard` serves it, opened in Chromium at a desk and on a phone."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from harness.system.ports import free_port

LOAD_MS = 60_000  # charts are drawn by scripts of some megabytes


@pytest.fixture(scope="module")
def address(report: Path) -> Iterator[str]:
    """Where the dashboard of the made-up study is served."""
    command = [
        sys.executable,
        "-m",
        "harness.cli",
        "dashboard",
        str(report.parent),
        "--port",
        str(free_port()),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\S+", served.stdout.readline())
        assert found is not None
        yield found[0]
        served.terminate()


@pytest.fixture
def opened(browser: Browser, address: str, width: int) -> Iterator[Page]:
    """The dashboard; a script error or a request to elsewhere fails the test."""
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    page.set_default_timeout(LOAD_MS)
    expect.set_options(timeout=LOAD_MS)
    trouble: list[str] = []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda request: trouble.append(request.url))
    page.goto(address)
    yield page
    context.close()
    expect.set_options(timeout=5_000)
    host = address.split("/?")[0]
    assert [one for one in trouble if not one.startswith((host, "data:", "blob:"))] == []


@pytest.mark.parametrize("width", [1400, 390])
def test_losses_and_bad_steps_are_drawn_at_any_width(opened: Page, width: int) -> None:
    for title in ("loss", "grad_norm", "first_bad_step", "host_syncs"):
        chart = opened.locator("div", has=opened.get_by_text(title, exact=True)).last
        chart.scroll_into_view_if_needed()
        expect(chart.locator("xpath=..").locator("canvas.marks").first).to_be_visible()
    assert opened.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [1400])
def test_runs_are_named_with_their_variant_first(opened: Page) -> None:
    expect(opened.get_by_text("unordered side-first toy").first).to_be_visible()
    assert opened.title() != "hit" and opened.locator("img[src='x']").count() == 0


@pytest.mark.parametrize("width", [1400])
def test_verdicts_figures_and_the_answer_are_there(opened: Page) -> None:
    opened.get_by_text("Media & Tables", exact=True).first.click()
    expect(opened.get_by_text("tables/verdicts").first).to_be_visible()
    expect(opened.get_by_text("diverged").first).to_be_visible()
    opened.wait_for_function("[...document.images].some((one) => one.alt !== '' && one.naturalWidth > 300)")
    opened.get_by_text("Alerts & Reports", exact=True).first.click()
    expect(opened.get_by_text("Not safe: stock and unordered.").first).to_be_visible()
