"""A labelled bucket on the dashboard: its windows are found, played, shown and corrected."""

import re
from collections import Counter
from pathlib import Path

import pytest

from audiocnn.corpus.read import read_corpus
from audiocnn.labels import label_set

pytest.importorskip("playwright", reason="`make test-browser` installs it")

from playwright.sync_api import Locator, Page, Route, expect

from helpers.chromium import assert_accessible, looks, shades, shoot

pytest_plugins = ["helpers.browsing"]
pytestmark = pytest.mark.browser

Labelled = tuple[Path, Path]


@pytest.fixture
def bucket(page: Page) -> Page:
    """The page with the labelled bucket on it."""
    page.get_by_role("button", name="Labelled bucket").click()
    rows(page).first.wait_for()
    return page


def rows(page: Page) -> Locator:
    return page.get_by_role("list", name="Windows").locator("> li")


def labels_shown(page: Page) -> list[str]:
    return rows(page).locator("strong").all_text_contents()


def scores_shown(page: Page) -> list[float]:
    texts = rows(page).locator("strong + span").all_text_contents()
    return [float(text.removesuffix(" %")) for text in texts]


def test_windows_are_found_by_class_score_and_name(bucket: Page, labelled: Labelled) -> None:
    table = label_set.read_labels(str(labelled[1])).to_pylist()
    total = bucket.get_by_text(re.compile(r"\d+ to \d+ of \d+ windows"))
    expect(total).to_have_text(f"1 to 25 of {len(table)} windows")
    assert scores_shown(bucket) == sorted(scores_shown(bucket), reverse=True)
    expect(bucket.get_by_text(f"{len(table)} windows of")).to_be_visible()
    shoot(bucket, "bucket")
    label, count = Counter(row["label"] for row in table).most_common(1)[0]
    bucket.get_by_label("Class", exact=True).select_option(f"{label} ({count})")
    expect(total).to_have_text(f"1 to {min(25, count)} of {count} windows")
    assert set(labels_shown(bucket)) == {label}
    bucket.get_by_label("Order of windows").select_option("lowest score first")
    expect(rows(bucket).first.locator("strong + span")).to_have_text(
        f"{100 * min(row['score'] for row in table if row['label'] == label):.1f} %"
    )
    # A bar of the histogram is a range of scores.
    bars = bucket.get_by_role("group", name="Windows by score").get_by_role("button")
    expect(bars).to_have_count(20)
    counts = [int(text.split(": ")[1].split()[0]) for text in titles(bars)]
    assert sum(counts) == count
    fullest = counts.index(max(counts))
    bars.nth(fullest).click()
    expect(total).to_have_text(f"1 to {min(25, max(counts))} of {max(counts)} windows")
    assert all(5 * fullest <= score <= 5 * fullest + 5 for score in scores_shown(bucket))
    bars.nth(fullest).click()
    bucket.get_by_label("Class", exact=True).select_option(index=0)
    bucket.get_by_label("Part of the recording's name").fill("LONG")
    bucket.get_by_role("button", name="Find").click()
    long_ones = [row for row in table if "long" in row["uri"]]
    expect(total).to_have_text(re.compile(f"of {len(long_ones)} windows"))
    # The URL contains the view. HTML in names is shown as text.
    expect(rows(bucket).first).to_contain_text("long <i>walk<|i>.flac")
    shared = bucket.url
    bucket.goto("about:blank")
    bucket.goto(shared)
    expect(total).to_have_text(re.compile(f"of {len(long_ones)} windows"))


def test_labels_that_are_being_read_are_asked_for_again(page: Page, labelled: Labelled) -> None:
    windows = len(label_set.read_labels(str(labelled[1])))
    unread = {"listed": False, "finished": False, "parts": 0, "parts_read": 0, "windows": 0}

    def first(route: Route) -> None:
        route.fulfill(json=route.fetch().json() | unread)

    page.route("**/v1/labels", first, times=1)
    page.get_by_role("button", name="Labelled bucket").click()
    expect(page.get_by_text("0 windows of")).to_be_visible()
    expect(page.get_by_text("Reading the labels.")).to_be_visible()
    expect(page.get_by_text(f" {windows} windows of")).to_be_visible()
    expect(page.get_by_text("Reading the labels.")).not_to_be_visible()


def titles(bars: Locator) -> list[str]:
    return [bars.nth(at).get_attribute("title") or "" for at in range(bars.count())]


def test_pages_are_turned(bucket: Page, labelled: Labelled) -> None:
    first = rows(bucket).first.text_content()
    bucket.get_by_role("button", name="Next").click()
    expect(bucket.get_by_text(re.compile(r"26 to \d+ of"))).to_be_visible()
    assert rows(bucket).first.text_content() != first
    bucket.get_by_role("button", name="Previous").click()
    expect(bucket.get_by_text(re.compile(r"1 to 25 of"))).to_be_visible()


def test_a_window_is_heard_and_looked_into(bucket: Page) -> None:
    bucket.get_by_label("Order of windows").select_option("by recording and time")
    bucket.get_by_label("Part of the recording's name").fill("long")
    bucket.get_by_role("button", name="Find").click()
    expect(rows(bucket).first).to_contain_text("flac, 0.0 s")
    last = rows(bucket).nth(2)
    with bucket.expect_response("**/v1/labels/sound*") as heard:
        last.get_by_role("button", name="Play").click()
    assert heard.value.ok
    expect(last.get_by_role("button", name="Play")).to_have_text("Stop")
    last.get_by_role("button", name="Play").click()
    expect(last.get_by_role("button", name="Play")).to_have_text("Play")
    label = last.locator("strong").text_content() or ""
    last.get_by_role("button", name="Inspect").click()
    expect(bucket.get_by_test_id("label")).to_have_text(label)
    expect(bucket.get_by_role("button", name="Play only the evidence")).to_be_enabled()
    assert shades(bucket.locator("[data-map=conv1] canvas").first) > 10
    expect(last).to_have_attribute("aria-current", "true")
    shoot(bucket, "bucket-look")
    shared = bucket.url
    bucket.goto("about:blank")
    bucket.goto(shared)
    expect(bucket.get_by_test_id("label")).to_have_text(label)


def test_corrections_come_back_as_a_manifest(
    bucket: Page, labelled: Labelled, tmp_path: Path
) -> None:
    names = labels_shown(bucket)
    for at in (0, 1, 2):
        rows(bucket).nth(at).get_by_role("button", name="Right").click()
    for at, name in ((1, "a new class"), (3, "=SUM(A1)"), (4, "")):
        rows(bucket).nth(at).get_by_role("button", name="Wrong").click()
        rows(bucket).nth(at).get_by_placeholder("right class").fill(name)
    rows(bucket).nth(2).get_by_role("button", name="Right").click()  # a second click takes it back
    expect(bucket.get_by_text("4 checked, 1 of them wrong without a class")).to_be_visible()
    bucket.reload()  # the corrections are kept
    expect(bucket.get_by_text("4 checked, 1 of them wrong without a class")).to_be_visible()
    expect(rows(bucket).nth(0).get_by_role("button", name="Right")).to_have_attribute(
        "aria-pressed", "true"
    )
    with bucket.expect_download() as download:
        bucket.get_by_role("button", name="Download corrections.csv").click()
    assert download.value.suggested_filename == "corrections.csv"
    path = tmp_path / "corrections.csv"
    download.value.save_as(path)
    corpus = read_corpus(str(path))
    assert corpus.rejected == ()
    assert corpus.ignored == 1
    assert sorted(clip.label for clip in corpus.clips) == sorted(
        ["a new class", "=SUM(A1)", names[0]]
    )
    assert all(clip.segment and Path(clip.uri).is_file() for clip in corpus.clips)
    assert "'=SUM(A1)" in path.read_text()
    bucket.on("dialog", lambda dialog: dialog.accept())
    bucket.get_by_role("button", name="Delete corrections").click()
    expect(bucket.get_by_text("checked")).to_have_count(0)


def test_a_recording_that_is_gone_is_a_sentence(bucket: Page, labelled: Labelled) -> None:
    path = sorted((labelled[0] / "day").iterdir())[3]
    bucket.get_by_label("Part of the recording's name").fill(path.name)
    bucket.get_by_role("button", name="Find").click()
    expect(rows(bucket)).to_have_count(1)
    path.rename(path.with_suffix(".away"))
    try:
        rows(bucket).first.get_by_role("button", name="Play").click()
        expect(bucket.locator("[data-trouble=changed]")).to_contain_text("Label the bucket again")
    finally:
        path.with_suffix(".away").rename(path)


def test_it_is_readable_everywhere(bucket: Page) -> None:
    rows(bucket).nth(2).get_by_role("button", name="Wrong").click()
    for at, look in enumerate(looks(bucket)):
        looked = rows(bucket).nth(at % 2)
        looked.get_by_role("button", name="Inspect").click()
        expect(looked).to_have_attribute("aria-current", "true")
        expect(bucket.get_by_role("button", name="Play only the evidence")).to_be_enabled()
        expect(bucket.get_by_test_id("label")).to_be_in_viewport()
        assert_accessible(bucket)
        shoot(bucket, f"bucket-{look}")
