"""The built site in a browser: on phones and desks, light and dark, without a mouse.

`nox -s docs` builds the site and runs this.
"""

import contextlib
import functools
import http.server
import threading
from pathlib import Path

import pytest
from browser import BROWSER, FLAGS, needs_browser

driver = pytest.importorskip("playwright.sync_api", reason="needs Playwright")

SITE = Path(__file__).parents[1] / "site"
PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))
TAB = {"key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9}
# Nothing may move while it is measured.
STILL = "* { transition: none !important; scroll-behavior: auto !important; }"
PREPARE = """() => {
  const visible = x => x.checkVisibility({opacityProperty: true,
                                          visibilityProperty: true});
  window.colour = () => getComputedStyle(document.body).backgroundColor;
  window.named = x => x && `${x.tagName}.${x.className} ${x.textContent}`
    .replace(/\\s+/g, " ").slice(0, 60);
  window.soon = condition => new Promise(resolve => {
    const end = performance.now() + 2000;
    const check = () => condition() ? resolve(true)
      : performance.now() > end ? resolve(false) : requestAnimationFrame(check);
    check();
  });
  window.unreached = new Set([...document.querySelectorAll(
    "a[href], button, input, select, summary, textarea, [tabindex='0']"
  )].filter(visible));
  window.unscrolled = new Set([...document.querySelectorAll("*")].filter(
    x => ["auto", "scroll"].includes(getComputedStyle(x).overflowX)
      && x.scrollWidth > x.clientWidth && visible(x)));
}"""
# What has the focus: `null` at the end, else what is wrong with how it shows, and
# whether it can be scrolled sideways, or is inside of what can.
LOOK = """() => {
  const focus = document.activeElement;
  if (focus == document.body || focus == window.first) return null;
  window.first ??= focus;
  unreached.delete(focus);
  // The buttons of the palette are hidden: the icon next to each of them shows.
  const shown = focus.matches(".md-option") ? focus.nextElementSibling : focus;
  const box = shown.getClientRects()[0];
  const on_top = document.elementFromPoint(
    Math.min(Math.max(box.x + box.width / 2, 0), innerWidth - 1),
    Math.min(Math.max(box.y + box.height / 2, 0), innerHeight - 1));
  window.scroller = [...unscrolled].find(x => x.contains(focus));
  const flaws = [];
  if (!shown.contains(on_top)) flaws.push(`${named(focus)} below ${named(on_top)}`);
  if (getComputedStyle(shown).outlineStyle == "none")
    flaws.push(`unmarked: ${named(focus)}`);
  return [flaws, Boolean(scroller)];
}"""
SCROLLED = "soon(() => scroller.scrollLeft > 0 && unscrolled.delete(scroller))"


@pytest.fixture(scope="module")
def window():
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        # A page of its own policy would refuse what `flaws` adds to it.
        yield browser.new_context(reduced_motion="reduce", bypass_csp=True)
        browser.close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serve(folder):
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def address():
    with serve(SITE) as address:
        yield address


def flaws(window, address, path, width):
    """Looks at a page, light and dark, and goes through it with the Tab key."""
    found = []
    page = window.new_page()
    page.set_viewport_size({"width": width, "height": 800})
    page.on("pageerror", lambda error: found.append(f"error: {error}"))
    page.on("console", lambda line: found.append(f"{line.type}: {line.text}"))
    page.on("request", lambda request: found.append(f"request: {request.url}"))
    page.goto(address + path)
    page.add_style_tag(content=STILL)
    page.evaluate(PREPARE)
    light = page.evaluate("colour()")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        if scheme == "dark" and not page.evaluate(f"soon(() => colour() != '{light}')"):
            found.append(f"no dark scheme: {light}")
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            found.append(f"wider than the window: {scheme}")
    keyboard = window.new_cdp_session(page)
    for _ in range(1000):
        keyboard.send("Input.dispatchKeyEvent", {"type": "rawKeyDown", **TAB})
        look = page.evaluate(LOOK)
        if not look:
            break
        found += look[0]
        if look[1]:
            page.keyboard.press("ArrowRight")
            page.evaluate(SCROLLED)
    for flaw in ("unreached", "unscrolled"):
        found += [f"{flaw}: {x}" for x in page.evaluate(f"[...{flaw}].map(named)")]
    page.close()
    own = ("info:", "log:", f"request: {address}", "request: data:")
    return [flaw for flaw in found if not flaw.startswith(own)]


@needs_browser
@pytest.mark.parametrize("width", [400, 1200])
@pytest.mark.parametrize("path", PAGES)
def test_page_fits_is_quiet_and_needs_no_mouse(path, width, window, address):
    assert flaws(window, address, path, width) == []


@needs_browser
def test_every_flaw_is_found(window, tmp_path):
    (tmp_path / "bad.html").write_text(f"""<!doctype html>
<link rel="icon" href="data:,">
<a href="#" style="outline: none">link</a>
<button style="position: absolute; left: -99px">outside</button>
<button tabindex="-1">skipped</button>
<pre tabindex="-1" style="overflow: auto; width: 9em">{"code " * 9}</pre>
<p style="width: 999px"><img src="http://127.0.0.1:9/x" alt=""></p>
<script>console.warn("careful"); throw "up";</script>""")
    with serve(tmp_path) as address:
        found = flaws(window, address, "bad.html", 400)
    for flaw in (
        "error: up",
        "warning: careful",
        "request: http://127.0.0.1:9/x",
        "no dark scheme",
        "wider than the window: light",
        "wider than the window: dark",
        "unmarked: A. link",
        "BUTTON. outside below",
        "unreached: BUTTON. skipped",
        "unscrolled: PRE. code",
    ):
        assert any(line.startswith(flaw) for line in found), (flaw, found)
