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

    def see_all(self) -> None:
        """Opens what is folded, and scrolls to every feature space, so that all is drawn."""
        self.page.evaluate("document.querySelectorAll('details').forEach(of => of.open = true)")
        for space in self.page.locator("figure.space").all():
            space.evaluate("of => of.scrollIntoView({behavior: 'instant'})")
            space.locator("canvas[data-points]").wait_for()

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
    ink = opened.page.evaluate("getComputedStyle(document.querySelector('tbody th')).color")
    bright = [sum(map(int, colour.strip("rgb()").split(",")[:3])) for colour in (ground, ink)]
    assert (bright[0] > bright[1]) == (scheme == "light")


def test_names_that_look_like_markup_are_text_on_the_page_and_run_nothing(browser, tmp_path):
    scripts = ["<img src=x onerror='window.ran = 1'>", "</script><script>window.ran = 1</script>", "javascript:ran=1"]
    names = [*HOSTILE, *scripts]
    _, out = written(tmp_path, names=names, samples=4 * len(names))
    opened = Opened(browser, out, viewport={"width": 1280, "height": 900})
    opened.see_all()
    assert opened.page.evaluate("window.ran") is None and opened.errors == [] and opened.asked == [out.as_uri()]
    assert opened.page.locator("img[src='x']").count() == 0
    said = opened.page.evaluate("""() => {
        const body = document.body.cloneNode(true);
        body.querySelectorAll('script, style').forEach(of => of.remove());
        return body.textContent;
    }""")
    assert [name for name in names if name not in said] == []
    rows = opened.page.eval_on_selector_all("#ssv2_top1-classes tbody th", "all => all.map(of => of.textContent)")
    legend = opened.page.eval_on_selector_all(".legend li", "all => all.map(of => of.textContent)")
    for shown in (rows, legend):
        assert {"$5_$6", "<b>", "%d", "{brace} %{x}", "[null]", "a|b", "_hidden", "2024-01-31"} <= set(shown)


def test_bars_change_with_the_colour_scheme(browser, small):
    opened = Opened(browser, small, viewport={"width": 1280, "height": 900}, color_scheme="light")
    bar = "getComputedStyle(document.querySelector('td.bar rect')).fill"
    before = opened.page.evaluate(bar)
    opened.page.emulate_media(color_scheme="dark")
    opened.page.wait_for_function(f"{bar} !== '{before}'")
    assert opened.errors == []


def test_pointing_at_a_sample_shows_it_and_classes_can_be_filtered(browser, small):
    opened = Opened(browser, small, viewport={"width": 1280, "height": 900})
    opened.see_all()
    page, space = opened.page, opened.page.locator("figure.space")
    canvas, panel = space.locator("canvas"), space.locator(".under")
    picture = "document.querySelector('.space canvas').toDataURL()"
    assert canvas.get_attribute("data-points") == "60"
    space.get_by_label("True class", exact=True).select_option(label="class 2")
    assert 0 < int(canvas.get_attribute("data-points")) < 60
    space.get_by_label("True class", exact=True).select_option("")
    before = page.evaluate(picture)
    space.get_by_label("Projection").select_option("UMAP")
    assert page.evaluate(picture) != before
    space.get_by_label("Colour", exact=True).select_option("correctness")
    assert space.locator(".legend li").all_inner_texts() == ["right", "wrong"]

    def search() -> None:
        """Points everywhere until a sample is found."""
        box = canvas.bounding_box()
        for y in range(12, int(box["height"]), 20):
            for x in range(12, int(box["width"]), 20):
                page.mouse.move(box["x"] + x, box["y"] + y)
                if "prediction:" in panel.inner_text():
                    return

    search()
    assert "label:" in panel.inner_text() and "sample" in panel.inner_text()
    assert panel.locator("img").count() == 1
    assert opened.errors == []


def test_the_wheel_zooms_a_drag_moves_and_a_double_click_shows_all_again(browser, small):
    opened = Opened(browser, small, viewport={"width": 1280, "height": 900})
    opened.see_all()
    picture, box = "document.querySelector('.space canvas').toDataURL()", opened.page.locator("canvas").bounding_box()
    opened.page.mouse.move(box["x"] + 200, box["y"] + 200)
    seen = [opened.page.evaluate(picture)]
    opened.page.mouse.wheel(0, -600)
    opened.page.wait_for_function(f"{picture} !== {seen[-1]!r}")
    seen.append(opened.page.evaluate(picture))
    opened.page.mouse.down()
    opened.page.mouse.move(box["x"] + 260, box["y"] + 230)
    opened.page.mouse.up()
    opened.page.wait_for_function(f"{picture} !== {seen[-1]!r}")
    opened.page.mouse.dblclick(box["x"] + 260, box["y"] + 230)
    opened.page.wait_for_function(f"{picture} === {seen[0]!r}")
    assert opened.errors == []


def test_everything_that_is_drawn_is_on_white_paper_without_a_script(browser, small):
    opened = Opened(
        browser, small, viewport={"width": 1280, "height": 900}, color_scheme="dark", java_script_enabled=False
    )
    opened.page.emulate_media(media="print", color_scheme="dark")
    assert all(image.bounding_box()["width"] > 100 for image in opened.page.locator(".still img").all())
    assert all(bar.is_visible() for bar in opened.page.locator("#ssv2_top1-classes td.bar svg").all())
    assert not opened.page.locator("figure.space").is_visible(), "on paper it is its picture"
    assert opened.errors == []
    lit = Opened(browser, small, viewport={"width": 1280, "height": 900}, color_scheme="dark")
    lit.page.emulate_media(media="print", color_scheme="dark")
    assert lit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    ink = lit.page.evaluate("getComputedStyle(document.querySelector('tbody th')).color")
    assert sum(map(int, ink.strip("rgb()").split(",")[:3])) < 300


def test_a_phone_shows_letters_of_a_picture_as_large_as_can_be_read_and_a_finger_scrolls_it(browser, small):
    opened = Opened(browser, small, viewport=PHONE)
    still = opened.page.locator(".still").first
    wide, seen = still.evaluate("of => [of.scrollWidth, of.clientWidth]")
    assert wide > 600 > seen and opened.overflow == 0


def test_long_names_on_a_phone_still_tell_classes_apart(browser, tmp_path):
    start, end = "putting the very same thing ", " onto the very same table again"
    names = [f"{start}{colour}{end}" for colour in ("red", "green", "blue", "grey", "brown", "black")]
    _, out = written(tmp_path, names=names)
    opened = Opened(browser, out, viewport=PHONE)
    shown = opened.page.eval_on_selector_all("#ssv2_top1-classes tbody th", "all => all.map(of => of.innerText)")
    assert set(shown) == set(names) and opened.overflow == 0


def test_the_size_of_something_something_v2_stays_small_and_usable(browser, tmp_path):
    _, out = written(tmp_path, classes=174, samples=24_843)
    assert out.stat().st_size < 6e6
    opened = Opened(browser, out, viewport=PHONE)
    opened.see_all()
    space = opened.page.locator("figure.space")
    space.get_by_label("Projection").select_option("UMAP")
    assert space.locator("canvas").get_attribute("data-points") == "24843"
    assert opened.overflow == 0 and opened.errors == []
