"""The dashboard in a real Chromium, as tests drive it."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page

SHOTS = Path(os.environ.get("AUDIOCNN_SCREENSHOTS", "screenshots"))
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--autoplay-policy=no-user-gesture-required", "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
]  # fmt: skip


def choose(page: Page, path: Path) -> None:
    """Give the page a file by its button."""
    page.get_by_label("A recording").set_input_files(path)


def drop(page: Page, path: Path) -> None:
    """Drag a file onto the page from outside, and let it go."""
    box = page.get_by_test_id("drop").bounding_box()
    assert box is not None
    session = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + 20}
        session.send("Input.dispatchDragEvent", {"type": kind, **place, "data": data})


def shades(drawn: Locator) -> int:
    """How many different colours a canvas or a picture shows."""
    script = """drawn => {
        const {naturalWidth: width = drawn.width, naturalHeight: height = drawn.height} = drawn;
        const copy = Object.assign(document.createElement("canvas"), {width, height});
        copy.getContext("2d").drawImage(drawn, 0, 0);
        const {data} = copy.getContext("2d").getImageData(0, 0, width, height);
        return new Set(new Uint32Array(data.buffer)).size;
    }"""
    count: int = drawn.evaluate(script)
    return count


def shoot(page: Page, name: str) -> None:
    """Keep a picture of the whole page."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


def looks(page: Page) -> Iterator[str]:
    """Names of what the page becomes in turn: light and dark, each narrow, usual and wide."""
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme in schemes:
        page.emulate_media(color_scheme=scheme)
        for width in (380, 1280, 2200):
            page.set_viewport_size({"width": width, "height": 900})
            yield f"{scheme}-{width}"


def assert_accessible(page: Page) -> None:
    """Nothing is wider than the page, and axe finds nothing serious."""
    page.evaluate("Promise.all(document.getAnimations().map(one => one.finished))")
    page.wait_for_function("document.documentElement.scrollWidth <= innerWidth")
    found = Axe().run(page, options={"resultTypes": ["violations"]})
    serious = [
        v["id"] for v in found.response["violations"] if v["impact"] in ("serious", "critical")
    ]
    assert serious == [], found.generate_report()
