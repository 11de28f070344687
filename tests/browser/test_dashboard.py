"""The dashboard in a real Chromium, with a real endpoint and a model of real recordings."""

import re
import time
from pathlib import Path

import numpy as np
import pytest

from audiocnn.audio.encode import encode
from audiocnn.corpus import synthetic
from audiocnn.model.bundle import Bundle
from helpers.asking import wait_until
from helpers.endpoint import Endpoint

pytest.importorskip("playwright", reason="`make test-browser` installs it")

from playwright.sync_api import Page, Route, expect

from helpers.chromium import SHOTS, assert_accessible, choose, drop, looks, shades, shoot

pytest_plugins = ["helpers.browsing"]
pytestmark = pytest.mark.browser

LAYERS = ("conv1", "layer1", "layer2", "layer3", "layer4")


def test_a_dropped_clip_is_answered_and_seen_through(page: Page, clip: Path) -> None:
    drop(page, clip)
    expect(page.get_by_test_id("label")).to_have_text("Rooster")
    spectrogram = page.get_by_role("img", name=re.compile("Log-mel spectrogram: 128 bands"))
    expect(spectrogram).to_be_visible()
    assert shades(spectrogram.locator("canvas").first) > 100
    for text in ("1 kHz", "5 kHz", "500 Hz"):
        expect(page.get_by_text(text, exact=True)).to_be_visible()
    expect(page.get_by_text("4.0 s", exact=True).first).to_be_visible()
    expect(page.get_by_text(re.compile(r"^-?[\d.]+ dB$"))).to_have_count(2)
    for layer in LAYERS:
        assert shades(page.locator(f"[data-map={layer}] canvas").first) > 10
    expect(page.get_by_role("img", name=re.compile("marked: evidence for Rooster"))).to_be_visible()
    shoot(page, "clip")


def test_the_first_heatmap_waits_for_one_answer_alone(page: Page, clip: Path) -> None:
    """The evidence for the class takes longer. It comes with a later answer."""
    asked, held = list[str](), list[Route]()

    def hold(route: Route) -> None:
        held.append(route)

    page.on("request", lambda request: asked.append(request.url))
    page.route("**/v1/predict*explain=*", hold)
    began = time.monotonic()
    choose(page, clip)
    page.locator("[data-map=conv1] canvas").first.wait_for()
    print(f"file to first heatmap: {time.monotonic() - began:.2f} s")
    wait_until(lambda: page.title() and held)
    only = page.get_by_role("button", name="Play only the evidence")
    expect(only).to_be_disabled()
    assert sum("/v1/predict" in url and "explain=" not in url for url in asked) == 1
    for one in held:
        one.continue_()
    expect(only).to_be_enabled()


def test_a_layer_opens_into_blocks_and_channels(page: Page, clip: Path) -> None:
    choose(page, clip)
    page.get_by_role("button", name="inside layer2").click()
    block = page.locator('[data-map="layer2.block0.relu"]')
    assert shades(block.locator("canvas").first) > 10
    block.get_by_role("button", name="channels").click()
    card = page.get_by_role("region", name="Channels of layer2.block0.relu")
    buttons = card.locator("li button")
    expect(buttons).to_have_count(32)
    means = [float(text) for text in buttons.locator("span span:last-child").all_text_contents()]
    assert means == sorted(means, reverse=True)
    assert shades(buttons.first.locator("img")) > 3
    buttons.first.click()
    expect(card.get_by_text("where it is active are marked on the spectrogram")).to_be_visible()
    expect(
        page.get_by_role("img", name=re.compile("marked: where channel .* is active"))
    ).to_be_visible()
    card.scroll_into_view_if_needed()
    page.screenshot(path=SHOTS / "channels.png")
    assert "layer=layer2.block0.relu" in page.url
    assert "channel=" in page.url


def test_what_speaks_for_a_class_can_be_heard(page: Page, clip: Path) -> None:
    choose(page, clip)
    only = page.get_by_role("button", name="Play only the evidence")
    expect(only).to_be_enabled()
    only.click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    cursor = page.get_by_role("img", name=re.compile("Log-mel")).locator("[data-cursor]")
    before = cursor.evaluate("line => parseFloat(line.style.left) || 0")
    moved = "([line, before]) => parseFloat(line.style.left) > before"
    page.wait_for_function(moved, arg=[cursor.element_handle(), before])
    page.get_by_label("Class that evidence is shown for").select_option("Rain")
    expect(page.get_by_role("img", name=re.compile("marked: evidence for Rain"))).to_be_visible()
    assert "explain=Rain" in page.url


def test_a_minute_has_a_timeline(page: Page, tmp_path: Path) -> None:
    sounds = [synthetic.sound(name, 3, 10.0) for name in list(synthetic.SOUNDS)[:6]]
    path = tmp_path / "minute.wav"
    path.write_bytes(encode(np.concatenate(sounds), 22_050))
    choose(page, path)
    windows = page.get_by_role("group", name="Windows").get_by_role("button")
    expect(windows).to_have_count(12)
    windows.nth(7).click()
    expect(page.get_by_role("img", name=re.compile("Log-mel.* 35.0 s to 40.0 s"))).to_be_visible()
    expect(windows.nth(7)).to_have_attribute("aria-pressed", "true")
    assert "window=7" in page.url
    shoot(page, "minute")


def test_a_sample_is_in_the_url_and_can_be_shared(page: Page, endpoint: Endpoint) -> None:
    page.get_by_role("button", name="siren").click()
    expect(page.get_by_role("heading", name="siren.flac")).to_be_visible()
    shared = page.url
    page.goto("about:blank")
    page.goto(shared)
    expect(page.get_by_role("heading", name="siren.flac")).to_be_visible()


def test_two_sounds_are_side_by_side(page: Page, endpoint: Endpoint) -> None:
    page.get_by_role("button", name="siren").click()
    page.get_by_role("button", name="Compare with another sound").click()
    page.get_by_role("button", name="bell", exact=True).nth(1).click()
    for name in ("siren.flac", "bell.flac"):
        expect(page.get_by_role("heading", name=name)).to_be_visible()
    expect(page.locator("[data-map=conv1]")).to_have_count(2)
    page.get_by_role("heading", name="bell.flac").wait_for()
    shoot(page, "compare")
    shared = page.url
    page.goto("about:blank")
    page.goto(shared)
    for name in ("siren.flac", "bell.flac"):
        expect(page.get_by_role("heading", name=name)).to_be_visible()


def test_two_bundles_are_side_by_side(
    page: Page, endpoint: Endpoint, clip: Path, other_bundle: Bundle
) -> None:
    choose(page, clip)
    page.get_by_role("button", name=f"Compare with bundle {other_bundle.fingerprint}").click()
    labels = page.get_by_test_id("label")
    expect(labels).to_have_count(2)
    expect(labels).to_have_text(["Rooster", "Rooster"])
    expect(page.get_by_text(f"bundle {other_bundle.fingerprint}", exact=True)).to_be_visible()
    sure, unsure = (
        float(text.removesuffix(" %"))
        for text in page.locator("[data-testid=label] + span").all_text_contents()
    )
    assert sure > unsure
    # The channels of a layer open for both bundles.
    page.locator("[data-map=layer1]").first.get_by_role("button", name="channels").click()
    expect(page.get_by_role("region", name="Channels of layer1")).to_have_count(2)
    assert "versus=bundle" in page.url
    shoot(page, "bundles")
    page.get_by_role("button", name="Show one bundle only").click()
    expect(labels).to_have_count(1)


def test_trouble_is_a_sentence_that_says_what_to_do(page: Page, tmp_path: Path) -> None:
    cases = {
        "text.wav": (b"no sound at all " * 10, "Send WAV, FLAC, OGG or MP3"),
        "empty.wav": (b"", "There is no sound in this file"),
        "cut.wav": (encode(np.zeros(22_050), 22_050)[:100], "damaged, cut short"),
    }
    for name, (data, sentence) in cases.items():
        (tmp_path / name).write_bytes(data)
        choose(page, tmp_path / name)
        expect(page.locator("[data-trouble]")).to_contain_text(sentence)
    page.route("**/v1/predict*", lambda route: route.abort())
    choose(page, tmp_path / "cut.wav")
    expect(page.locator("[data-trouble]")).to_contain_text("The server cannot be reached")
    page.unroute("**/v1/predict*")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("[data-trouble]")).to_contain_text("damaged, cut short")
    shoot(page, "trouble")


def test_the_microphone_is_a_source(page: Page) -> None:
    page.add_init_script(
        """const Plain = MediaRecorder;
        window.recorded = 0;
        window.MediaRecorder = class extends Plain {
            constructor(...given) {
                super(...given);
                window.recorder = this;
                this.addEventListener("dataavailable", (event) => { recorded += event.data.size; });
            }
        };"""
    )
    page.reload()
    page.get_by_role("button", name="Record", exact=True).click()
    expect(page.get_by_role("button", name="Stop recording")).to_be_visible()
    page.wait_for_function("() => { recorder.requestData(); return recorded > 10_000; }")
    page.get_by_role("button", name="Stop recording").click()
    expect(page.get_by_role("heading", name="recording.wav")).to_be_visible()


def test_the_keyboard_is_enough(page: Page) -> None:
    page.keyboard.press("Tab")  # the link to the endpoint's page
    for _ in range(12):
        if page.evaluate("document.activeElement.textContent") == "bell":
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="bell.flac")).to_be_visible()
    expect(page.get_by_role("button", name="Play only the evidence")).to_be_enabled()
    for _ in range(40):
        if page.evaluate("document.activeElement.getAttribute('aria-label')") == "Position":
            break
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert float(page.get_by_label("Position").input_value()) > 0


def test_it_is_readable_everywhere(page: Page, clip: Path) -> None:
    choose(page, clip)
    expect(page.get_by_role("button", name="Play only the evidence")).to_be_enabled()
    for look in looks(page):
        assert_accessible(page)
        shoot(page, look)


def test_the_script_is_small(page: Page, endpoint: Endpoint) -> None:
    sizes = page.evaluate(
        """() => performance.getEntriesByType("resource")
            .filter(one => one.name.endsWith(".js")).map(one => one.encodedBodySize)"""
    )
    assert 0 < sum(sizes) < 300_000
