"""The report in a real Chromium: it opens from disk, alone, and a reader can use it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter
from dataclasses import replace

import pytest
from report_runs import HOSTILE, SCORERS, make_run

from judges.evaluation.references import PublishedScore
from judges.evaluation.report import compare_runs, write_changes, write_report
from judges.evaluation.report.outcomes import classify_outcome, scorers_disagree
from judges.evaluation.results import read_jsonl, write_run

selenium = pytest.importorskip("selenium", reason="the browser tests need selenium")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium with chromedriver (Debian: chromium, chromium-driver)"
)
QUIET = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,900"),
    *("--disable-background-networking", "--disable-sync", "--disable-component-update", "--no-first-run"),
)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (*QUIET, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


class Page:
    """A report opened in the browser."""

    def __init__(self, driver, path):
        self.driver = driver
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        self.prefer()
        driver.get_log("browser"), driver.get_log("performance")
        driver.get(path.as_uri())
        WebDriverWait(driver, 60).until(lambda d: d.execute_script("return document.documentElement.dataset.ready"))

    def prefer(self, scheme="light"):
        preferences = {"prefers-reduced-motion": "reduce", "prefers-color-scheme": scheme}
        features = [{"name": name, "value": value} for name, value in preferences.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def run(self, script, *given):
        return self.driver.execute_script(script, *given)

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def find_all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector):
        return self.run("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector)

    def keys(self, *keys):
        self.driver.switch_to.active_element.send_keys(*keys)

    def focused(self):
        return self.run("return document.activeElement.id")

    def count(self):
        return self.find(".count").text

    def shown(self):
        """The number of judgments that match the filters, as the page shows it."""
        return int(self.count().split(" of ")[0].replace(",", ""))

    def choose(self, name, value):
        Select(self.find(f"#filter-{name}")).select_by_visible_text(value)

    def requests(self):
        """URLs that the page requested, without those of the browser's own pages."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [params["request"]["url"] for params in sent if params["documentURL"].startswith("file:")]

    def errors(self):
        return self.driver.get_log("browser")


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    make_run(folder, 40)
    return folder, write_report(folder)


@pytest.fixture
def page(chromium, plain_run):
    return Page(chromium, plain_run[1])


@pytest.fixture
def hostile(chromium, tmp_path):
    make_run(tmp_path, 24, texts=HOSTILE)
    return Page(chromium, write_report(tmp_path))


def expected_judgments(folder):
    """(benchmark, subset, scorer, outcome, failed, disagreement) of every judgment, read from the run's files."""
    judgments = []
    for name in ("everyday", "hard"):
        items = {item["id"]: item for item in read_jsonl(folder / f"items/{name}.jsonl")}
        found = {}
        for s, scorer in enumerate(SCORERS):
            for card in read_jsonl(folder / f"judgments/{name}-{s}.jsonl"):
                found.setdefault(card["id"], []).append((scorer.label, classify_outcome(items[card["id"]], card)))
        for key, cards in found.items():
            differs = scorers_disagree(o.preferences for _, o in cards)
            judgments += [(name, items[key]["subset"], label, o.kind, bool(o.failures), differs) for label, o in cards]
    return judgments


# --- isolation


def test_the_page_sends_no_request_and_logs_no_error(page):
    for button in page.find_all("#benchmark-choice button"):
        button.click()
    page.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.find("#theme").click()
    requests = [url for url in page.requests() if not url.startswith("data:")]
    assert len(requests) == 1 and requests[0].startswith("file://")
    assert page.errors() == []


def test_hostile_texts_are_shown_as_text_and_run_nothing(hostile):
    hostile.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    list_ = hostile.find("#judgment-list")
    seen = set()
    for _ in range(30):
        seen.update(hostile.texts("#judgment-detail .text"))
        list_.send_keys("j")
    assert hostile.run("return window.hacked") is None
    assert (
        hostile.run("return document.querySelectorAll('main script, main img, main iframe, main a, main b').length")
        == 0
    )
    assert hostile.run("return [...document.querySelectorAll('*')].filter(e => e.onerror || e.onload).length") == 0
    visible = {text for text in HOSTILE if text.isascii() and text.isprintable()}
    assert len(visible) > 6 and visible <= seen
    assert hostile.errors() == []


def test_invisible_and_direction_characters_are_shown_by_their_code_points(hostile):
    text = hostile.run("return document.body.textContent.replace(/\\s/g, ' ')")
    drawn = hostile.run("return document.querySelector('main').innerText")
    assert "U+202E" in drawn and "U+0000" in drawn
    assert not set(drawn) & set("\u202e\u2066\u200b\ufeff\x00\x07\x1b")
    assert "U+202E" in text
    isolated = "return getComputedStyle(document.querySelector('#judgment-detail .text')).unicodeBidi"
    assert hostile.run(isolated) == "isolate"


def test_the_policy_blocks_injected_scripts_and_connections(page):
    page.run("const s = document.createElement('script'); s.textContent = 'window.hacked = 9'; document.body.append(s)")
    assert page.run("return window.hacked") is None
    done = page.driver.execute_async_script(
        "const done = arguments[0]; fetch('https://example.invalid/').then(() => done('sent'), e => done('stopped'))"
    )
    assert done == "stopped"
    messages = " ".join(entry["message"] for entry in page.errors())
    assert "Content Security Policy" in messages and "connect-src" in messages
    assert not [url for url in page.requests() if url.startswith("http")]


# --- the tables and charts


def test_a_column_header_sorts_both_ways_and_sets_aria_sort(page):
    heads = page.texts("table.sortable th .sort")
    column = heads.index("headline")
    values = f"table.sortable tbody tr td:nth-child({column + 1})"
    assert not page.find_all("th[aria-sort]")
    benchmarks = page.texts("table.sortable tbody tr td:nth-child(2)")
    assert benchmarks == ["Everyday questions"] * 6 + ["Hard questions"] * 6
    button = page.find_all("table.sortable th .sort")[column]
    button.send_keys(Keys.ENTER)
    first = [float(text) for text in page.texts(values)]
    assert first == sorted(first, reverse=True) and len(first) == 12
    button.send_keys(Keys.ENTER)
    assert [float(text) for text in page.texts(values)] == sorted(first)
    assert page.find_all("table.sortable th")[column].get_attribute("aria-sort") == "ascending"
    page.find_all("table.sortable th .sort")[0].click()
    names = page.texts("table.sortable tbody th[scope=row]")
    assert names == sorted(names)
    assert len(page.find_all("th[aria-sort]")) == 1


def test_published_scores_stay_below_the_results_in_every_order(chromium, tmp_path, monkeypatch):
    score = PublishedScore("<b>best-70b", "everyday", "overall", 99.9, "a paper", "the paper", "2024-05")
    monkeypatch.setattr(
        "judges.evaluation.report.data.published_scores", lambda name: (score,) if name == "everyday" else ()
    )
    write_run(replace(make_run(tmp_path, 10), settings={"references": True}), tmp_path)
    page = Page(chromium, write_report(tmp_path))
    for button in page.find_all("table.sortable th .sort")[:4]:
        button.click()
        last = page.texts("table.sortable tbody tr")[-2:]
        assert last[0].startswith("Published by others") and "<b>best-70b" in last[1] and "published" in last[1]


def test_every_chart_has_a_label_and_its_numbers_as_a_table(page):
    figures = page.find_all("figure")
    assert len(figures) > 8
    for figure in figures:
        assert figure.find_element(By.CSS_SELECTOR, "svg[role=img]").get_attribute("aria-label")
        assert len(figure.find_elements(By.CSS_SELECTOR, "details.as-table tbody tr")) > 0


def test_the_panels_are_those_of_the_selected_benchmark(page):
    assert "everyday-40" in page.find("#benchmark-body .facts").text
    assert "Differs from the published set" not in page.find("#benchmark-body").text
    page.find_all("#benchmark-choice button")[1].click()
    assert "hard-40" in page.find("#benchmark-body .facts").text
    assert "Differs from the published set" in page.find("#benchmark-body").text
    assert [b.get_attribute("aria-pressed") for b in page.find_all("#benchmark-choice button")] == ["false", "true"]


def test_every_number_can_be_searched_by_name(page):
    page.find(".all-numbers summary").click()
    WebDriverWait(page.driver, 10).until(lambda _: page.find_all(".all-numbers tbody tr"))
    all_of_them = page.texts(".all-numbers tbody th")
    assert {"accuracy", "accuracy: code", "temperature", "position: consistency"} <= set(all_of_them)
    page.find("#all-numbers-search").send_keys("length")
    WebDriverWait(page.driver, 10).until(lambda _: len(page.find_all(".all-numbers tbody tr")) < len(all_of_them))
    assert all("length" in name for name in page.texts(".all-numbers tbody th"))


# --- the explorer


def test_each_filter_selects_its_judgments(page, plain_run):
    expected = expected_judgments(plain_run[0])
    assert page.shown() == len(expected) == 480
    counts = Counter(fact[3] for fact in expected)
    assert min(counts[kind] for kind in ("right", "wrong", "tie", "failed")) > 0
    for kind in ("right", "wrong", "tie", "failed"):
        page.choose("outcome", kind)
        assert page.shown() == counts[kind]
    page.choose("scorer", "pairwise-4b")
    page.choose("outcome", "right")
    page.choose("benchmark", "Hard questions")
    page.choose("subset", "code")
    values = ("hard", "code", "pairwise-4b", "right")
    assert page.shown() == sum(fact[:4] == values for fact in expected) > 0
    page.find(".under button").click()
    page.find("#filter-failed").click()
    assert page.shown() == sum(fact[4] for fact in expected) > 0
    page.find("#filter-failed").click()
    page.find("#filter-differs").click()
    assert page.shown() == sum(fact[5] for fact in expected) < 480


def test_the_search_covers_prompts_responses_and_failures(page, plain_run):
    search = page.find("#filter-search")
    for words, count in (("Why does ice FLOAT", 48), ("0.15 × 240", 48), ("<b>nowhere", 0)):
        search.clear()
        search.send_keys(words)
        WebDriverWait(page.driver, 10).until(lambda _, count=count: page.shown() == count)
    assert "No judgment" in page.find("#judgment-detail").text
    search.clear()
    search.send_keys("ends before a verdict")
    failed = sum(fact[4] for fact in expected_judgments(plain_run[0]))
    WebDriverWait(page.driver, 10).until(lambda _: page.shown() == failed)


def test_a_cell_of_the_heat_map_opens_its_judgments(page, plain_run):
    page.run("arguments[0].click()", page.find(".heat-map button[aria-label^='code, pairwise-4b']"))
    assert (
        page.shown()
        == sum(fact[:3] == ("everyday", "code", "pairwise-4b") for fact in expected_judgments(plain_run[0]))
        > 0
    )
    assert page.focused() == "judgment-list"


def test_a_judgment_shows_prompt_responses_gold_votes_critique_and_comparisons(page):
    page.choose("scorer", "pairwise-4b")
    page.choose("outcome", "right")
    text = page.find("#judgment-detail").text
    for part in ("Prompt", "Response 1", "Response 2", "✓ gold", "votes", "Critique", "Comparisons", "Preference"):
        assert part.lower() in text.lower()
    assert len(page.find_all("#judgment-detail .response.chosen")) == 1
    assert len(page.find_all("#judgment-detail .chip")) == len(SCORERS)
    page.find_all("#judgment-detail .chip")[4].click()
    assert page.find("#judgment-title").text.endswith("length")
    page.choose("outcome", "failed")
    assert "missing: the text ends before a verdict" in page.find("#judgment-detail .failure").text


# --- keyboard, themes, width


def test_the_first_tab_stop_skips_to_the_judgments(page):
    page.find("body").send_keys(Keys.TAB)
    assert page.run("return document.activeElement.className") == "skip"
    assert page.run("return document.activeElement.getBoundingClientRect().left") >= 0
    page.keys(Keys.ENTER)
    assert page.focused() == "judgments"


def test_the_keyboard_moves_through_rows_opens_one_and_returns(page):
    chosen = "return Number(document.querySelector('[aria-selected=true]').getAttribute('aria-posinset'))"
    list_ = page.find("#judgment-list")
    list_.send_keys("jj" + Keys.ARROW_DOWN + "k")
    assert page.run(chosen) == 3
    assert list_.get_attribute("aria-activedescendant") == "judgment-2"
    list_.send_keys(Keys.END)
    assert page.run(chosen) == 480
    list_.send_keys(Keys.ARROW_UP + Keys.PAGE_UP)
    assert page.run(chosen) < 479
    list_.send_keys(Keys.HOME + Keys.ENTER)
    assert page.run(chosen) == 1 and page.focused() == "judgment-detail"
    page.keys(Keys.TAB)
    assert page.run("return document.querySelector('#judgment-detail').contains(document.activeElement)")
    page.keys(Keys.ESCAPE)
    assert page.focused() == "judgment-list"
    page.keys("/")
    assert page.focused() == "filter-search"


def test_every_control_shows_its_focus(page):
    page.find("body").send_keys(Keys.TAB)
    for _ in range(25):
        page.keys(Keys.TAB)
        style = "const s = getComputedStyle(document.activeElement); return s.outlineStyle + ' ' + s.outlineWidth"
        assert page.run(style) == "solid 2px"


def test_the_theme_follows_the_system_until_the_button_is_used(page):
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = page.run(ground)
    page.prefer("dark")
    WebDriverWait(page.driver, 10).until(lambda _: page.find("#theme").text == "Light")
    dark = page.run(ground)
    assert dark != light
    page.find("#theme").click()
    assert page.run(ground) == light
    page.find("#theme").click()
    assert page.run(ground) == dark


# The contrast of every text with its background; a canvas converts colours of any notation to RGBA.
CONTRAST = """
const canvas = Object.assign(document.createElement('canvas'), {width: 1, height: 1});
const paint = canvas.getContext('2d', {willReadFrequently: true});
const rgba = (colour) => {
  paint.clearRect(0, 0, 1, 1);
  paint.fillStyle = colour;
  paint.fillRect(0, 0, 1, 1);
  return [...paint.getImageData(0, 0, 1, 1).data];
};
const linear = (v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
const hasText = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
const found = [];
for (const e of document.querySelectorAll('body *')) {
  if (!hasText(e) || !e.getClientRects().length || e.closest('script, title')) continue;
  const style = getComputedStyle(e);
  const ink = rgba(e instanceof SVGElement ? style.fill : style.color);
  let ground = [0, 0, 0, 0];
  for (let on = e; on && ground[3] < 255; on = on.parentElement) ground = rgba(getComputedStyle(on).backgroundColor);
  const [high, low] = [light(ink), light(ground)].sort((x, y) => y - x);
  found.push([(high + 0.05) / (low + 0.05), e.className.baseVal ?? e.className, e.textContent.slice(0, 30)]);
}
return found;
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_text_meets_the_contrast_of_wcag_aa(page, theme):
    page.run("document.documentElement.dataset.theme = arguments[0]", theme)
    page.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    found = page.run(CONTRAST)
    assert len(found) > 500
    assert not [entry for entry in found if entry[0] < 4.5]


def test_a_narrow_screen_needs_no_sideways_scrolling(page):
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    WebDriverWait(page.driver, 10).until(
        lambda _: page.run("return document.querySelector('figure svg').clientWidth") < 361
    )
    assert page.run("return document.documentElement.scrollWidth") <= 360


# --- size


def test_the_page_stays_small_with_ten_thousand_judgments(chromium, tmp_path):
    make_run(tmp_path, 1250, SCORERS[:4], scale := ("everyday", "hard"))
    page = Page(chromium, write_report(tmp_path))
    assert len(scale) * 1250 * 4 == page.shown() == 10_000
    nodes = "return document.querySelectorAll('*').length"
    before = page.run(nodes)
    assert before < 4000
    list_ = page.find("#judgment-list")
    for step in (Keys.END, Keys.HOME, Keys.PAGE_DOWN, "j"):
        list_.send_keys(step)
        assert 0 < len(page.find_all("#judgment-list .row")) < 40
    page.run("document.getElementById('judgment-list').scrollTop = 58 * 5000")
    index = "return document.querySelector('#judgment-list .row').getAttribute('aria-posinset')"
    WebDriverWait(page.driver, 10).until(lambda _: 4900 < int(page.run(index)) < 5001)
    page.choose("outcome", "wrong")
    assert 0 < page.shown() < 10_000
    page.find("#filter-search").send_keys("ice float")
    WebDriverWait(page.driver, 20).until(lambda _: 0 < page.shown() < 500)
    assert page.run(nodes) < 4000
    assert page.errors() == []


def test_a_page_with_a_sample_of_the_judgments_notes_it(chromium, tmp_path, monkeypatch):
    make_run(tmp_path, 30)
    monkeypatch.setattr("judges.evaluation.report.data.JudgmentSample.__init__.__defaults__", (120, 10**7, 0))
    page = Page(chromium, write_report(tmp_path))
    assert page.count() == "120 of 120 judgments"
    assert "A sample: 120 of 360 judgments" in page.find("#explorer .note").text


def test_a_run_without_its_judgments_still_shows_its_numbers(chromium, tmp_path):
    make_run(tmp_path, 10)
    shutil.rmtree(tmp_path / "judgments")
    page = Page(chromium, write_report(tmp_path))
    assert "has no judgments" in page.find("#explorer").text
    assert "its judgments are not in the folder" in page.find("#summary").text
    assert len(page.find_all("table.sortable tbody tr")) == 12 and page.errors() == []


def test_the_changes_page_opens_without_errors(chromium, tmp_path):
    make_run(tmp_path / "a", 24, texts=HOSTILE)
    make_run(tmp_path / "b", 24, texts=HOSTILE, seed=5)
    path = write_changes(compare_runs(tmp_path / "a", tmp_path / "b"), tmp_path)[1]
    chromium.get_log("browser")
    chromium.get(path.as_uri())
    assert chromium.execute_script("return window.hacked") is None
    assert "rows changed" in chromium.find_element(By.TAG_NAME, "main").text
    assert chromium.get_log("browser") == []


def test_the_page_renders_in_a_browser_without_a_driver(plain_run, tmp_path):
    # Independent of selenium: the document as Chromium itself dumps it.
    command = [CHROMIUM, *QUIET, f"--user-data-dir={tmp_path}", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run([*command, plain_run[1].as_uri()], capture_output=True, text=True, timeout=180)
    assert 'data-ready="yes"' in done.stdout and "480 of 480 judgments" in done.stdout
