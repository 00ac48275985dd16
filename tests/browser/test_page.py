"""The report in headless Chromium: `make browser`."""

import json

import pytest
from omegaconf import OmegaConf

from tests.browser.pages import HOSTILE, token, trace, whole_run
from tests.unit.test_report import run_folder
from uedpo.report.page import write_report

VIOLATIONS = """axe.run(document, {resultTypes: ["violations"]}).then(r => r.violations
  .filter(v => ["serious", "critical"].includes(v.impact))
  .map(v => v.id + ": " + v.nodes.slice(0, 3).map(n => n.html.slice(0, 160)).join(" | ")))"""
ACTIVE = """(root => [...root.querySelectorAll("*")].filter(e =>
    ["script", "iframe", "object", "embed", "form", "base", "link", "frame", "applet"].includes(e.localName)
    || (e.localName == "meta" && ![null, "Content-Security-Policy"].includes(e.getAttribute("http-equiv")))
    || [...e.attributes].some(a => a.name.startsWith("on")
      || (["href", "src", "xlink:href", "action", "srcdoc"].includes(a.name)
          && !/^(#|data:image\\/webp;base64,)/.test(a.value)))).map(e => e.outerHTML.slice(0, 200)))"""
STYLE = "getComputedStyle(document.querySelector('{}'), {}).{}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return whole_run(tmp_path_factory.mktemp("browser") / "run", 2)


@pytest.fixture
def page(browser, folder):
    browser.size(1200, 900)
    browser.media()
    path = write_report(folder)
    browser.open(path)
    return browser


def focus(page, selector):
    """Tab until an element that matches has the focus."""
    page.run("document.activeElement.blur()")
    for _ in range(60):
        page.press("Tab")
        if page.run(f"document.activeElement.matches({json.dumps(selector)})"):
            return
    raise AssertionError(f"{selector} is not reached with Tab")


def looks(page):
    """Background and line of every token of the first answer."""
    return page.run("""[...document.querySelectorAll(".tk")[0].children].map(t => {
        const s = getComputedStyle(t); return s.backgroundColor + s.borderBottom })""")


def test_page_makes_no_noise_and_no_request(page):
    assert page.errors == []
    assert [r for r in page.requests if not r.startswith(("data:image/webp;", "file:"))] == []
    assert len([r for r in page.requests if r.startswith("file:")]) == 1
    assert page.run("document.scripts.length") == 0


def test_signal_switch_works_by_keyboard(page):
    focus(page, "#s-weight")
    seen = [looks(page)]
    for _ in range(2):
        page.press("ArrowLeft")
        seen.append(looks(page))
    assert page.run("document.activeElement.id") == "s-u"
    assert seen[0] != seen[1] != seen[2] != seen[0]


def test_model_switch_works_by_keyboard(page):
    focus(page, "#m-before")
    before = looks(page)
    page.press("ArrowRight")
    assert page.run("document.activeElement.id") == "m-after"
    assert looks(page) != before


def test_numbers_switch_works_by_keyboard(page):
    text = STYLE.format(".tk i", "'::after'", "content")
    assert page.run(text) == "none"
    focus(page, "#numbers")
    page.press(" ")
    assert page.run(text) == '"1.00"'


def test_theme_switch_works_by_keyboard(page):
    colour = STYLE.format("body", "null", "backgroundColor")
    light = page.run(colour)
    focus(page, "#theme-auto")
    page.press("ArrowRight")
    assert page.run(colour) == light
    page.press("ArrowRight")
    assert page.run("document.activeElement.id") == "theme-dark"
    dark = page.run(colour)
    assert dark != light
    page.run("document.querySelector('#theme-auto').click()")
    page.media(dark=True)
    assert page.run(colour) == dark


def test_configuration_opens_by_keyboard(page):
    focus(page, "summary")
    page.press("Enter")
    assert page.run("document.querySelector('details').open")


@pytest.mark.parametrize(
    ("width", "dark", "signal"),
    [(1200, False, "weight"), (1200, True, "u"), (360, False, "delta"), (360, True, "weight")],
)
def test_axe_finds_nothing_serious(page, axe, width, dark, signal):
    page.size(width, 900)
    page.media(dark=dark)
    page.run("document.querySelector('details').open = true")
    page.run(f"document.querySelector('#s-{signal}').click()")
    page.run(axe)
    assert page.run(VIOLATIONS) == []


def test_axe_would_find_something(page, axe):
    page.run(axe)
    page.run("document.documentElement.removeAttribute('lang')")
    assert [v.partition(":")[0] for v in page.run(VIOLATIONS)] == ["html-has-lang"]


def test_page_fits_a_phone(page):
    page.size(360, 740)
    page.run("document.querySelector('#numbers').click()")
    assert page.run("document.documentElement.scrollWidth") <= 360
    wide = """[...document.querySelectorAll("main *")].filter(e => !e.closest(".scroll, pre, svg, .vh")
        && e.getBoundingClientRect().right > 361).map(e => e.outerHTML.slice(0, 100))"""
    assert page.run(wide) == []


def test_page_prints(page):
    page.media(media="print", dark=True)
    assert page.run(STYLE.format(".bar", "null", "display")) == "none"
    assert page.run(STYLE.format("body", "null", "backgroundColor")) == "rgb(255, 255, 255)"
    page.media()
    assert len(page.send("Page.printToPDF", printBackground=False)["data"]) > 20_000


def test_hostile_texts_stay_texts(browser, tmp_path):
    assert len(set(HOSTILE)) == 200
    folder = whole_run(tmp_path / "run", 1)
    traces = []
    for i, text in enumerate(HOSTILE):
        sides = {s: {w: [token(text, i, kind=text, right=False, word=text)] for w in ("before", "after")}
                 for s in ("chosen", "rejected")}  # fmt: skip
        says = {w: {"text": text, "wrong": [[0, 3, text]]} for w in ("before", "after")}
        pictures = {"clear_image": text, "corrupted_image": "data:image/png;base64," + text}
        traces.append({"id": text, "prompt": text, **pictures, **sides, "says": says})
    (folder / "traces.json").write_text(json.dumps([*traces, trace(0)]))
    browser.open(write_report(folder))
    assert browser.errors == []
    assert [r for r in browser.requests if not r.startswith(("data:image/webp;", "file:"))] == []
    assert browser.run(f"{ACTIVE}(document)") == []
    assert browser.run("window.pwned === undefined")
    shown = browser.run("[...document.querySelectorAll('.pair h3 small')].map(e => e.textContent)")
    # HTML has no NUL
    assert shown[:-1] == [text.replace("\0", "") for text in HOSTILE]


def test_hostile_names_stay_texts(browser, folder, tmp_path):
    run = run_folder(tmp_path / "run")
    config = OmegaConf.load(run / "config.yaml")
    browser.open(write_report(folder))
    for text in HOSTILE:
        config.name = config.method = config.model.path = config.loss._target_ = text
        config.allow_packages = [text]
        (run / "config.yaml").write_text(json.dumps(OmegaConf.to_container(config, resolve=False)))
        page = write_report(run).read_text(encoding="utf-8")
        parsed = f"new DOMParser().parseFromString({json.dumps(page)}, 'text/html')"
        assert browser.run(f"{ACTIVE}({parsed})") == []
    assert browser.errors == []


def test_hostile_check_would_find_something(browser, folder):
    browser.open(write_report(folder))
    for bad in ("<b onclick=x>", "<a href=javascript:x>", "<script></script>", "<img src=http://x/>"):
        assert len(browser.run(f"{ACTIVE}(new DOMParser().parseFromString({bad!r}, 'text/html'))")) == 1


@pytest.mark.slow
def test_page_of_500_pairs_is_small_and_quick(browser, tmp_path):
    path = write_report(whole_run(tmp_path / "run", 500))
    assert path.stat().st_size < 5_000_000
    browser.size(1200, 900)
    browser.send("Performance.enable", timeDomain="threadTicks")
    seconds = []
    for _ in range(3):
        browser.open(path)
        browser.run("""new Promise(done => {
            const begin = performance.now();
            document.querySelector("#s-u").click();
            document.body.offsetHeight;
            requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - begin)));
        })""")
        found = browser.send("Performance.getMetrics")["metrics"]
        seconds.append(next(m["value"] for m in found if m["name"] == "TaskDuration"))
    # of the page's thread, because other work on the machine is not the page's
    print(f"{path.stat().st_size} bytes, {min(seconds):.2f} s of work until the first switch is drawn")
    assert min(seconds) < 2
    assert browser.errors == []
