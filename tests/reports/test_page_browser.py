"""Claims about the page in a real browser: it draws, answers, stays inside itself, and fits a phone."""

import shutil
from pathlib import Path

import pytest

from pipeline.reports.page import write_page
from tests.reports.made_up import HEADS, MadeUp
from tests.reports.test_names import HOSTILE

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PHONE = {"width": 390, "height": 844}
MOST_MS = 300_000  # a busy machine is no failure


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="the dev dependency playwright is not installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """A page that was opened, with all that it complained of and asked for."""

    def __init__(self, browser, file: Path, **options) -> None:
        self.page = browser.new_context(**options).new_page()
        self.page.set_default_timeout(MOST_MS)
        self.errors, self.asked = [], []
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.errors.append(dialog.message), dialog.dismiss()))
        self.page.route("**/*", self._answer)
        self.page.goto(file.as_uri())

    def _answer(self, route) -> None:
        self.asked.append(route.request.url)
        route.continue_() if route.request.url.startswith("file:") else route.abort()

    def see_all(self, within: str = "main") -> None:
        """Scrolls through the whole page, or a section, so that all its plots are drawn."""
        self.page.evaluate("document.querySelectorAll('details').forEach(of => of.open = true)")
        for figure in self.page.locator(f"{within} .plot").all():
            figure.evaluate("of => of.scrollIntoView({behavior: 'instant'})")
            figure.locator(".main-svg").first.wait_for(state="attached")

    @property
    def overflow(self) -> int:
        return self.page.evaluate("document.documentElement.scrollWidth - innerWidth")


def written(root: Path, **options) -> tuple[MadeUp, Path]:
    project = MadeUp(root, **options).finish(*HEADS).explain("ssv2_top1").study().log()
    project.draw("ssv2_top1/explanation/pictures/attention", "assembly_segmentation/report/pictures/worst")
    out = root / "results/report.html"
    write_page(project.plan, out, root)
    return project, out


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    hostile = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
    return written(tmp_path_factory.mktemp("small"), name=hostile)[1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [{"width": 1280, "height": 900}, PHONE])
def test_everything_is_drawn_without_an_error_a_request_or_a_sideways_scroll(browser, small, size, scheme):
    opened = Opened(browser, small, viewport=size, color_scheme=scheme)
    opened.see_all()
    assert opened.errors == []
    assert opened.asked == [small.as_uri()]
    assert opened.overflow == 0
    ground = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    ink = opened.page.evaluate("getComputedStyle(document.querySelector('.xtick text')).fill")
    bright = [sum(map(int, colour.strip("rgb()").split(",")[:3])) for colour in (ground, ink)]
    assert (bright[0] > bright[1]) == (scheme == "light")


def test_names_that_look_like_markup_are_text_on_the_page_and_run_nothing(browser, tmp_path):
    scripts = ["<img src=x onerror='window.ran = 1'>", "</script><script>window.ran = 1</script>", "javascript:ran=1"]
    names = [*HOSTILE, *scripts]
    _, out = written(tmp_path, names=names, samples=4 * len(names))
    opened = Opened(browser, out, viewport={"width": 1280, "height": 900})
    opened.see_all()
    plots = "document.querySelectorAll('main .plot')"
    assert opened.page.evaluate(f"{plots}.length === [...{plots}].filter(of => of.querySelector('.main-svg')).length")
    assert opened.page.evaluate("window.ran") is None and opened.errors == [] and opened.asked == [out.as_uri()]
    assert opened.page.locator("img[src='x']").count() == 0
    said = opened.page.evaluate("""() => {
        const body = document.body.cloneNode(true);
        body.querySelectorAll('script, style').forEach(of => of.remove());
        return body.textContent;
    }""")
    assert [name for name in names if name not in said] == []
    ticks = opened.page.eval_on_selector_all("#ssv2_top1-classes .ytick text", "all => all.map(of => of.textContent)")
    assert {"$5_$6", "<b>", "%d", "{brace} %{x}", "[null]", "a|b", "_hidden", "2024-01-31"} <= set(ticks)


def test_plots_change_with_the_colour_scheme(browser, small):
    opened = Opened(browser, small, viewport={"width": 1280, "height": 900}, color_scheme="light")
    opened.see_all()
    ink = "getComputedStyle(document.querySelector('.xtick text')).fill"
    before = opened.page.evaluate(ink)
    opened.page.emulate_media(color_scheme="dark")
    opened.page.wait_for_function(f"{ink} !== '{before}'")
    assert opened.errors == []


def test_pointing_at_a_sample_shows_it_and_classes_can_be_filtered(browser, small):
    opened = Opened(browser, small, viewport={"width": 1280, "height": 900})
    page, space = opened.page, opened.page.locator("figure.space")
    space.scroll_into_view_if_needed()
    space.locator(".main-svg").first.wait_for(state="attached")
    count = "() => document.querySelector('.space .plot').data.reduce((sum, of) => sum + of.x.length, 0)"
    assert page.evaluate(count) == 60
    space.get_by_label("True class", exact=True).select_option(label="class 2")
    assert 0 < page.evaluate(count) < 60
    space.get_by_label("True class", exact=True).select_option("")
    before = page.evaluate("() => document.querySelector('.space .plot').data[0].x[0]")
    space.get_by_label("Projection").select_option("UMAP")
    assert page.evaluate("() => document.querySelector('.space .plot').data[0].x[0]") != before
    space.get_by_label("Colour", exact=True).select_option("correctness")
    assert page.evaluate("() => document.querySelector('.space .plot').data.map(of => of.name)") == ["right", "wrong"]
    place = page.evaluate("""() => {
        const plot = document.querySelector('.space .plot'), box = plot.getBoundingClientRect();
        const {xaxis, yaxis} = plot._fullLayout, [trace] = plot.data;
        return [box.x + xaxis._offset + xaxis.d2p(trace.x[0]), box.y + yaxis._offset + yaxis.d2p(trace.y[0])];
    }""")
    page.mouse.move(*place)
    panel = space.locator(".under")
    panel.locator("text=prediction:").wait_for()
    assert "label:" in panel.inner_text() and panel.locator("img").count() == 1
    assert opened.errors == []


def test_printing_draws_every_plot_on_white_paper(browser, small):
    opened = Opened(browser, small, viewport={"width": 1280, "height": 900}, color_scheme="dark")
    plots = opened.page.locator("main .plot")
    drawn = "() => [...document.querySelectorAll('main .plot')].filter(of => of.querySelector('.main-svg')).length"
    assert opened.page.evaluate(drawn) < plots.count()
    opened.page.emulate_media(media="print", color_scheme="dark")
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    opened.page.wait_for_function(f"({drawn})() === {plots.count()}")
    ink = opened.page.evaluate("getComputedStyle(document.querySelector('.xtick text')).fill")
    assert sum(map(int, ink.strip("rgb()").split(",")[:3])) < 300
    assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert opened.errors == []


def test_cut_names_on_a_phone_still_tell_classes_apart(browser, tmp_path):
    start, end = "putting the very same thing ", " onto the very same table again"
    names = [f"{start}{colour}{end}" for colour in ("red", "green", "blue", "grey", "brown", "black")]
    _, out = written(tmp_path, names=names)
    opened = Opened(browser, out, viewport=PHONE)
    opened.see_all("#ssv2_top1-classes")
    shown = opened.page.eval_on_selector_all("#ssv2_top1-classes .ytick text", "all => all.map(of => of.textContent)")
    assert len(set(shown)) == len(names)


def test_nothing_offers_to_send_a_figure_away(browser, small):
    opened = Opened(browser, small, viewport={"width": 1280, "height": 900})
    opened.see_all()
    titles = opened.page.eval_on_selector_all(".modebar-btn", "all => all.map(of => of.dataset.title)")
    assert titles and not [title for title in titles if "cloud" in title.lower() or "share" in title.lower()]


def test_a_plot_s_buttons_stand_on_no_box(browser, small):
    opened = Opened(browser, small, viewport={"width": 1280, "height": 900})
    opened.see_all()
    grounds = opened.page.eval_on_selector_all(
        ".modebar-group", "all => all.map(of => getComputedStyle(of).backgroundColor)"
    )
    assert set(grounds) == {"rgba(0, 0, 0, 0)"}


def test_the_size_of_something_something_v2_stays_small_and_usable(browser, tmp_path):
    _, out = written(tmp_path, classes=174, samples=24_843)
    assert out.stat().st_size < 15e6
    opened = Opened(browser, out, viewport=PHONE)
    space = opened.page.locator("figure.space")
    space.scroll_into_view_if_needed()
    space.locator("canvas").first.wait_for(state="attached")
    space.get_by_label("Projection").select_option("UMAP")
    points = opened.page.evaluate("document.querySelector('.space .plot').data[0].x.length")
    assert points == 24_843
    opened.see_all("#ssv2_top1")
    assert opened.overflow == 0 and opened.errors == []
