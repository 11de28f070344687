"""The models of an evaluation if an earlier one wrote to the same folder."""

from pathlib import Path

import pytest

from audiocnn import storage
from audiocnn.errors import ConfigError, FormatError
from audiocnn.evaluation.predictions import REPORT_FORMAT
from audiocnn.storage import output_folder
from audiocnn.storage.output_folder import REPORT
from helpers.common import SMALL
from helpers.small_features import write_features
from pipelines.evaluate import _models
from pipelines.options import Evaluate


def test_a_report_takes_more_folds_and_seeds_and_keeps_those_it_has(tmp_path: Path) -> None:
    features, to = write_features(str(tmp_path / "features")), str(tmp_path / "report")

    def models(
        folds: tuple[int, ...], seeds: int = 1, *, overwrite: bool = False
    ) -> tuple[list[int], list[int]]:
        options = Evaluate(
            features=features.uri, to=to, feature=SMALL, folds=folds, seeds=seeds,
            overwrite=overwrite,
        )  # fmt: skip
        found = _models(options, features, output_folder.claim(to, REPORT))
        return found.folds, found.seeds

    assert models((1, 2)) == ([1, 2], [0])
    there = {
        "folds": [{"fold": 1, "seed": 0}, {"fold": 2, "seed": 0}],
        "seeds": [{"seed": 0}],
    }
    storage.write_json(f"{to}/report.json", {"format": REPORT_FORMAT, **there})
    for asked in ((1,), (2, 1)):
        with pytest.raises(ConfigError, match=r"report\.json is there already"):
            models(asked)
    assert models((1,), overwrite=True) == ([1], [0])
    assert models((3,)) == ([1, 2, 3], [0])
    assert models((1, 3), 2) == ([1, 2, 3], [0, 1])
    # Models that a killed run requested are added, although the report does not have them.
    note = {"format": "audiocnn.evaluate/1", "folds": [1, 2], "seeds": [0, 1]}
    storage.write_json(f"{to}/job.json", note)
    assert models((1, 2)) == ([1, 2], [0, 1])
    # Folds that are not numbers are refused: they would name other folders.
    storage.write_json(f"{to}/job.json", {**note, "folds": ["../../precious"]})
    with pytest.raises(FormatError, match=r"job\.json: damaged"):
        models((1,))
