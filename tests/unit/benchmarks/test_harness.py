"""The writer of benchmark rows and ratios is tested with known figures."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import Report


@pytest.fixture
def written(tmp_path: Path) -> dict[str, Any]:
    report = Report(name="speed", settings={"rounds": 3})
    ours = report.add("ours", "clips/s", [10.0, 30.0, 20.0], note="streamed")
    report.add("theirs", "clips/s", [5.0, 10.0, 20.0])
    report.ratio("ours_vs_theirs", ours.values, report.rows["theirs"].values)
    report.ratios_to_peers("steady", ours.values, {"slow": [1.0] * 3, "quick": [10.0] * 3})
    path = report.write(tmp_path / "deep" / "speed.json")
    return dict(json.loads(path.read_text()))


def test_a_result_says_when_where_and_with_what(written: dict[str, Any]) -> None:
    assert set(written) == {
        "name", "date", "machine", "versions", "settings", "rows", "ratios", "ratio_spreads"
    }  # fmt: skip
    assert {"processor", "cores", "memory_gib", "gpu"} <= set(written["machine"])
    assert {"python", "ray", "torch"} <= set(written["versions"])


def test_a_row_is_the_median_and_the_spread_of_its_rounds(
    written: dict[str, Any],
) -> None:
    assert written["rows"][0] == {
        "name": "ours", "unit": "clips/s", "median": 20.0, "spread": [10.0, 30.0],
        "values": [10.0, 30.0, 20.0], "note": "streamed",
    }  # fmt: skip
    assert "note" not in written["rows"][1]


def test_a_ratio_is_taken_round_by_round(written: dict[str, Any]) -> None:
    assert written["ratios"]["ours_vs_theirs"] == 2.0
    assert written["ratio_spreads"]["ours_vs_theirs"] == [1.0, 3.0]


def test_the_best_peer_is_named(written: dict[str, Any]) -> None:
    assert written["settings"]["best_peer_steady"] == "quick"
    assert written["ratios"]["vs_best_peer"] == written["ratios"]["vs_quick"] == 2.0
    assert written["ratios"]["vs_slow"] == 20.0


def test_rounds_that_do_not_match_are_no_ratio() -> None:
    with pytest.raises(ValueError, match="zip"):
        Report(name="speed").ratio("uneven", [1.0, 2.0], [1.0])
