"""Helpers to use the dashboard in a real Chromium."""

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
    """Choose a file with the page's button."""
    page.get_by_label("A recording").set_input_files(path)


def drop(page: Page, path: Path) -> None:
    """Drag a file from outside onto the page, and drop it."""
    box = page.get_by_test_id("drop").bounding_box()
    assert box is not None
    session = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + 20}
        session.send("Input.dispatchDragEvent", {"type": kind, **place, "data": data})


def shades(drawn: Locator) -> int:
    """Number of different colours in a canvas or a picture."""
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
    """Save a screenshot of the whole page."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


def looks(page: Page) -> Iterator[str]:
    """Give the page each look, and yield its name: light and dark, in three widths."""
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme in schemes:
        page.emulate_media(color_scheme=scheme)
        for width in (380, 1280, 2200):
            page.set_viewport_size({"width": width, "height": 900})
            yield f"{scheme}-{width}"


def assert_accessible(page: Page) -> None:
    """Assert that nothing is wider than the page, and that axe finds no serious violation."""
    page.evaluate("Promise.all(document.getAnimations().map(one => one.finished))")
    page.wait_for_function("document.documentElement.scrollWidth <= innerWidth")
    found = Axe().run(page, options={"resultTypes": ["violations"]})
    serious = [
        v["id"] for v in found.response["violations"] if v["impact"] in ("serious", "critical")
    ]
    assert serious == [], found.generate_report()
