"""`label` refuses invalid options before Ray starts; a dry run refuses them too."""

from pathlib import Path

import pytest

from audiocnn.audio.encode import encode
from audiocnn.corpus import synthetic
from audiocnn.errors import ConfigError
from helpers.common import make_bundle
from pipelines.label.dry_run import prospect
from pipelines.label.job import label
from pipelines.options import Label


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with `bundle`, and with one recording in `in/bucket`."""
    make_bundle(tmp_path / "bundle")
    folder = tmp_path / "in" / "bucket"
    folder.mkdir(parents=True)
    sound = encode(synthetic.sound("bell", 1, 1.0, 16_000), 16_000)
    (folder / "a.wav").write_bytes(sound)
    return tmp_path


@pytest.mark.parametrize("to", ["in/bucket", "in/bucket/", "in", "in/bucket/../bucket", "/"])
def test_labels_are_not_where_all_recordings_are(place: Path, to: str) -> None:
    options = Label(bucket=f"{place}/in/bucket/", bundle=f"{place}/bundle", to=str(place / to))
    before = sorted(place.rglob("*"))
    for run in (label, prospect):
        with pytest.raises(ConfigError, match=r"it is the bucket, or a folder above it.*beside"):
            run(options)
    assert sorted(place.rglob("*")) == before


def test_a_dry_run_counts_what_the_job_would(place: Path) -> None:
    bucket = place / "in" / "bucket"
    for name in ("labels", "labels of others"):
        (bucket / name).mkdir()
        (bucket / name / "b.wav").write_bytes((bucket / "a.wav").read_bytes())
    options = Label(bucket=str(bucket), bundle=f"{place}/bundle", to=f"{bucket}/labels")
    census, headers = prospect(options)
    assert (census.listed, census.recordings, headers.looked_at) == (2, 2, 2)
