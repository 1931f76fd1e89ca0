"""The report as its readers meet it: at a desk, on a phone, in the dark, printed, by keyboard, without scripts."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

CONTRAST = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const light = (colour) => {
    const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = rgb(colour).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (!/, 0\\)$|transparent/.test(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const found = {};
  const verdicts = [".v.exact", ".v.drifted", ".v.diverged", ".badge.safe", ".badge.unsafe"];
  for (const selector of [...verdicts, "p", ".note", "a", ".level"]) {
    const node = document.querySelector("main " + selector) || document.querySelector(selector);
    const [a, b] = [light(getComputedStyle(node).color), light(ground(node))].sort((x, y) => y - x);
    found[selector] = (a + 0.05) / (b + 0.05);
  }
  return found;
}"""


def test_the_answer_is_on_the_first_screen(page: Page) -> None:
    for row in page.locator(".answers tbody tr").all():
        box = row.bounding_box()
        assert box is not None and box["y"] + box["height"] < 900
    expect(page.locator(".headline")).to_contain_text("Not safe: stock and unordered.")


@pytest.mark.parametrize("width", [320, 390, 768, 1600])
def test_the_page_never_scrolls_sideways(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.locator("details").first.evaluate("node => { node.open = true; }")
    # Curves are drawn anew once the page has noticed its new size.
    page.wait_for_function("width => document.documentElement.scrollWidth <= width", arg=width)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    weakest = page.evaluate(CONTRAST)
    assert min(weakest.values()) >= 4.5, weakest


def test_names_with_markup_stay_text(page: Page) -> None:
    assert page.locator("img").count() == 0
    assert page.title() == "made-up: hpZ report"
    expect(page.locator("#verdicts")).to_contain_text("toy<img src=x onerror=")


def test_a_figure_that_lacks_a_run_says_so(page: Page) -> None:
    expect(page.locator("figcaption.warn").first).to_contain_text("which has not finished (not started)")


def test_curves_can_be_picked(page: Page) -> None:
    series = page.locator("#explorer-stage .u-legend .u-series")
    chosen = page.locator("#explorer-runs input:checked").count()
    expect(series).to_have_count(chosen + 1)
    page.click("#explorer-all")
    expect(series).to_have_count(page.locator("#explorer-runs input").count() + 1)
    page.click("#explorer-none")
    expect(series).to_have_count(1)


def test_dragging_zooms_and_the_button_undoes_it(page: Page) -> None:
    stage = page.locator("#explorer-stage")
    expect(stage).to_have_attribute("data-shows", "0 to 11")
    stage.scroll_into_view_if_needed()
    box = page.locator("#explorer-stage .u-over").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 50, steps=4)
    page.mouse.up()
    expect(stage).to_have_attribute("data-shows", "3 to 5")
    page.click("#explorer-reset")
    expect(stage).to_have_attribute("data-shows", "0 to 11")


PICTURE = "document.querySelector('#explorer-stage canvas').toDataURL()"


def picture(page: Page) -> str:
    return str(page.evaluate(PICTURE))


def test_values_show_at_the_cursor(page: Page) -> None:
    page.locator("#explorer-stage .u-over").hover(position={"x": 300, "y": 60})
    expect(page.locator("#explorer-stage .u-legend .u-value").nth(1)).to_have_text(re.compile(r"^\d\.\d+$"))


def test_the_scale_can_be_logarithmic(page: Page) -> None:
    before = picture(page)
    page.check("#explorer-log")
    page.wait_for_function(f"before => {PICTURE} !== before", arg=before)


def test_the_keyboard_reads_values_out(page: Page) -> None:
    page.focus("#explorer-stage")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#explorer-say")).to_contain_text("Step 2. zero3 (baseline), eager, seed 1:")
    page.keyboard.press("+")
    page.keyboard.press("0")
    page.keyboard.press("End")
    expect(page.locator("#explorer-say")).to_contain_text("stock, side-first, seed 1: no number")


def test_gradient_norms_can_be_shown(page: Page) -> None:
    page.select_option("#explorer-series", "grad_norm")
    page.focus("#explorer-stage")
    page.keyboard.press("Home")
    expect(page.locator("#explorer-say")).to_contain_text("Step 0.")


def test_everything_is_reached_by_tab_and_has_a_name(page: Page) -> None:
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("a, button, input, select, summary, [tabindex='0']")]
        .filter((node) => !(node.textContent.trim() || node.getAttribute("aria-label") || node.labels?.length
          || node.getAttribute("aria-labelledby")))
        .map((node) => node.outerHTML.slice(0, 80))"""
    )
    assert nameless == []
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"


def test_headings_and_tables_have_their_structure(page: Page) -> None:
    assert page.locator("h1").count() == 1
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map((h) => Number(h.tagName[1]))")
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    assert page.locator("th:not([scope])").count() <= page.locator("#explorer-stage th").count()
    assert page.locator("figure svg:not([aria-label])").count() == 0


def test_without_scripts_the_verdicts_and_curves_are_there(browser: Browser, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    expect(page.locator(".verdicts").first).to_be_visible()
    expect(page.locator("figure svg").first).to_be_visible()
    expect(page.locator("#explorer")).to_be_hidden()
    context.close()


def test_printed_it_keeps_what_matters(page: Page) -> None:
    page.emulate_media(media="print")
    expect(page.locator("nav")).to_be_hidden()
    expect(page.locator("#explorer")).to_be_hidden()
    expect(page.locator("figure svg").first).to_be_visible()
    assert len(page.pdf()) > 20_000
