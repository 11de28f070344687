"""Which evaluations a report that is there may become."""

from pathlib import Path

import pytest

from audiocnn import storage
from audiocnn.errors import ConfigError, FormatError
from audiocnn.predictions import REPORT_FORMAT
from helpers.common import SMALL
from helpers.small_features import write_features
from pipelines.evaluate import _jobs, _refuse_less
from pipelines.options import Evaluate


def test_a_report_takes_more_folds_and_seeds_and_not_fewer(tmp_path: Path) -> None:
    features, to = write_features(str(tmp_path / "features")), str(tmp_path / "report")

    def refuse(folds: tuple[int, ...], seeds: int = 1) -> None:
        options = Evaluate(features=features.uri, to=to, feature=SMALL, folds=folds, seeds=seeds)
        _refuse_less(to, _jobs(options, features, list(folds), to))

    refuse((1, 2))  # nothing is there yet
    there = [{"fold": 1, "seed": 0}, {"fold": 2, "seed": 0}]
    storage.write_json(f"{to}/report.json", {"format": REPORT_FORMAT, "folds": there})
    with pytest.raises(ConfigError, match=r"report\.json is there already, and .*folds/1 is not"):
        refuse((1, 2))  # a report of another kind, as the demo's
    for fold in (1, 2):
        storage.write_json(f"{to}/folds/{fold}/bundle.json", {})
    for folds, seeds in [((1, 2), 1), ((1, 2, 3), 1), ((1, 2), 3), ((3, 2, 1), 2)]:
        refuse(folds, seeds)
    with pytest.raises(ConfigError, match="has fold 2 of seed 0, which was not asked for"):
        refuse((1, 3), 2)
    storage.write_json(f"{to}/report.json", {"format": "audiocnn.report/1"})
    with pytest.raises(FormatError, match="report/1"):
        refuse((1, 2))
