"""Real Chromium (Debian's), and a report made of made-up runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from analysis.page.report import build_report
from harness.simulate.tables import write
from harness.study import Run
from tests.simulated_help import made_up
from tests.synthetic import STUDY, Curve, as_known, fake_patches, toy_model, write_study

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
NASTY = "toy<img src=x onerror=document.title='hit'>"


def curve(run: Run) -> Curve | None:
    if run.variant == "event" and run.model == NASTY:
        return None  # so that the page also has something that was not run
    return as_known(run)


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    matrix = [*STUDY["matrix"], {**STUDY["matrix"][0], "model": NASTY}]
    with pytest.MonkeyPatch.context() as patch:
        fake_patches(patch)
        write_study(folder, curve, matrix=matrix, models={"toy": toy_model(), NASTY: toy_model()})
        write(made_up(), folder / "simulated")
        return build_report(folder)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))


@pytest.fixture
def page(browser: Browser, report: Path) -> Iterator[Page]:
    """The report, opened from its file; a script error or a request for anything else fails the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    opened = context.new_page()
    trouble: list[str] = []
    opened.on("pageerror", lambda error: trouble.append(str(error)))
    opened.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
    opened.on(
        "request", lambda request: trouble.append(request.url) if request.url != report.as_uri() else None
    )
    opened.goto(report.as_uri())
    yield opened
    context.close()
    assert [one for one in trouble if not one.startswith("data:")] == []
