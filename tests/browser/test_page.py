"""The page as a whole: for the keyboard, for small screens, in light and dark, with and without a key."""

from __future__ import annotations

from typing import Any

import pytest

from api.conftest import Live, run_live
from cadence.config import ServerConfig
from cadence.fake import FakeEngine

from .chromium import expect
from .conftest import Visit, open_page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

TABS = ("Speak", "Listen", "Talk", "Voices")

# What people can use, with its accessible name and its size.
CONTROLS = """
() => [...document.querySelectorAll("button, input, select, textarea, summary, audio, [role]")]
  .filter((item) => item.checkVisibility() && !item.classList.contains("unseen"))
  .map((item) => {
    const box = item.getBoundingClientRect();
    const labels = [document.getElementById(item.getAttribute("aria-labelledby")), ...(item.labels ?? [])];
    const name = item.getAttribute("aria-label") || labels.map((label) => label?.innerText).join("")
      || item.textContent.trim() || item.title;
    const { id, tagName: tag, role } = item;
    return { id, tag, role, name, height: box.height, right: box.right };
  })
"""

# The contrast of every text with what lies behind it, by WCAG's formula.
CONTRAST = """
() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => numbers(colour).slice(0, 3)
    .map((value) => value / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (item) => {
    const colour = getComputedStyle(item).backgroundColor;
    return numbers(colour)[3] === 0 ? behind(item.parentElement) : colour;
  };
  const found = [];
  for (const item of document.querySelectorAll("body *")) {
    const says = [...item.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!says || !item.checkVisibility() || item.closest(":disabled") || item.closest("svg")) continue;
    const [a, b] = [light(getComputedStyle(item).color), light(behind(item))].sort((x, y) => y - x);
    found.push([item.textContent.trim().slice(0, 40), (a + 0.05) / (b + 0.05)]);
  }
  return found;
}
"""


def open_tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def test_tabs_by_keyboard_and_address(visit: Visit) -> None:
    page = visit.page
    page.get_by_role("tab", name="Speak").focus()
    for name in ("Listen", "Talk", "Voices", "Speak"):
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("tab", name=name)).to_be_focused()
        expect(page.get_by_role("tabpanel", name=name)).to_be_visible()
        expect(page.get_by_role("tabpanel")).to_have_count(1)
        assert page.evaluate("location.hash") == f"#/{name.lower()}"
    page.keyboard.press("End")
    expect(page.get_by_role("tab", name="Voices")).to_have_attribute("aria-selected", "true")
    page.reload()
    expect(page.get_by_role("tabpanel", name="Voices")).to_be_visible()


def test_every_control_has_a_name(visit: Visit) -> None:
    page = visit.page
    for name in TABS:
        open_tab(page, name)
        for fold in page.locator("summary").filter(visible=True).all():
            if not fold.evaluate("item => item.parentElement.open"):
                fold.click()
        controls = page.evaluate(CONTROLS)
        assert len(controls) > 8
        nameless = [item for item in controls if not item["name"]]
        assert [item for item in nameless if item["role"] not in ("status", "alert")] == []


def test_a_small_phone(phone: Visit) -> None:
    """Nothing sticks out, and everything is large enough for a thumb."""
    page = phone.page
    expect(page.locator("#model")).not_to_be_empty()
    for name in TABS:
        open_tab(page, name)
        for fold in page.locator("summary").filter(visible=True).all():
            if not fold.evaluate("item => item.parentElement.open"):
                fold.click()
        assert page.evaluate("document.documentElement.scrollWidth") == 320
        for item in page.evaluate(CONTROLS):
            assert item["right"] <= 320, item
            if item["tag"] in ("BUTTON", "SELECT", "SUMMARY"):
                assert item["height"] >= 42, item


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(browser: Any, page_server: Live, scheme: str) -> None:
    for visit in open_page(browser, page_server, color_scheme=scheme):
        expect(visit.page.locator("#model")).not_to_be_empty()
        for name in TABS:
            open_tab(visit.page, name)
            found = visit.page.evaluate(CONTRAST)
            assert len(found) > 10
            assert [pair for pair in found if pair[1] < 4.5] == []


def test_light_and_dark(visit: Visit) -> None:
    page = visit.page
    page.emulate_media(color_scheme="light")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(paper)
    assert light != dark
    button = page.get_by_role("button", name="Dark colours")
    expect(button).to_have_attribute("aria-pressed", "true")
    button.click()
    assert page.evaluate(paper) == light
    page.reload()
    assert page.evaluate(paper) == light  # the choice is kept
    expect(button).to_have_attribute("aria-pressed", "false")


def test_reduced_motion(visit: Visit) -> None:
    page = visit.page
    moves = "getComputedStyle(document.getElementById('speak-go')).transitionDuration"
    assert page.evaluate(moves) != "1e-05s"
    page.emulate_media(reduced_motion="reduce")
    assert float(page.evaluate(moves).split("s")[0]) < 0.001


def test_the_server_panel(visit: Visit, engine: FakeEngine) -> None:
    page = visit.page
    engine.delay_s = 3600  # it takes its time
    page.get_by_role("button", name="Speak", exact=True).click()
    expect(page.locator("#server-line")).to_have_text("Server: 1 in flight, 0 waiting")
    page.locator("#server summary").click()
    expect(page.locator("#server-running")).to_have_text("1")
    page.get_by_role("button", name="Stop").first.click()
    expect(page.locator("#server-running")).to_have_text("0")


def test_quantiles_of_histograms(visit: Visit) -> None:
    """As Prometheus' histogram_quantile: linear inside the bucket, over all labels together."""
    text = """
# HELP lat_s Latency.
lat_s_bucket{le="0.1",model_name="a, \\"b\\""} 2.0
lat_s_bucket{le="0.5",model_name="a, \\"b\\""} 6.0
lat_s_bucket{le="+Inf",model_name="a, \\"b\\""} 8.0
x_total{reason="stop"} 3
x_total{reason="length"} 4
"""
    script = """async (text) => {
      const { parseMetrics, quantile, total } = await import("/playground/metrics.js");
      const metrics = parseMetrics(text);
      return [0.25, 0.5, 0.95].map((q) => quantile(metrics, "lat_s", q))
        .concat(total(metrics, "x_total"), quantile(metrics, "nothing", 0.5));
    }"""
    assert visit.page.evaluate(script, text) == [0.1, pytest.approx(0.3), 0.5, 7, None]


def test_the_resampler_in_pieces_equals_the_whole(visit: Visit) -> None:
    script = """async () => {
      const { Resampler } = await import("/playground/audio/resampler.js");
      const sine = (rate, hz) => (_, i) => Math.sin((2 * Math.PI * hz * i) / rate);
      const tone = (rate, hz) => Float32Array.from({ length: rate }, sine(rate, hz));
      const sound = tone(48000, 440);
      const whole = new Resampler(48000, 24000).push(sound);
      const pieces = new Resampler(48000, 24000);
      const made = [];
      for (let at = 0; at < sound.length; at += 1601) {
        made.push(...pieces.push(sound.subarray(at, at + 1601)));
      }
      const apart = Math.max(...whole.map((sample, i) => Math.abs(sample - made[i])));
      const wanted = tone(24000, 440);
      const inner = whole.slice(100, -100);
      const error = Math.max(...inner.map((sample, i) => Math.abs(sample - wanted[i + 100])));
      const above = new Resampler(48000, 24000).push(tone(48000, 15000)).slice(100, -100);
      return { apart, error, lengths: [whole.length, made.length], alias: Math.max(...above.map(Math.abs)) };
    }"""
    found = visit.page.evaluate(script)
    assert found["apart"] < 1e-6
    assert found["error"] < 2e-3
    assert found["alias"] < 1e-2
    assert found["lengths"][0] == found["lengths"][1] > 23_900


def test_a_key_is_asked_for_and_kept_for_the_tab_only(browser: Any) -> None:
    with run_live(FakeEngine(), ServerConfig(api_keys=("sesame",))) as live:
        for visit in open_page(browser, live):
            visit.expected = "401"
            page = visit.page
            expect(page.get_by_role("dialog", name="API key")).to_be_visible()
            page.keyboard.type("wrong")
            page.keyboard.press("Enter")
            expect(page.locator("#key-text")).to_contain_text("does not know this key")
            page.get_by_label("Key", exact=True).fill("sesame")
            page.get_by_role("button", name="Use this key").click()
            expect(page.locator("#model")).to_have_text("fake")
            expect(page.locator("#server-line")).to_contain_text("in flight")
            assert page.evaluate("Object.values(sessionStorage)") == ["sesame"]
            assert "sesame" not in page.evaluate("JSON.stringify(localStorage) + document.cookie")
            page.get_by_role("button", name="Speak", exact=True).click()
            expect(page.locator("#speak-status")).to_contain_text("Complete")
