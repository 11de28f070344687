"""Make a folder of tests/contract/kept: a bundle, features and labels of an earlier version.

    git worktree add ../old COMMIT
    PYTHONPATH=../old .venv/bin/python tests/helpers/kept.py 2026-12-31

The verbs of the code at COMMIT read sounds from an S3 server of their own, and write to
/tmp/sounds. So their files contain no other path of this machine.
"""

import io
import json
import os
import runpy
import shutil
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "tests" / "contract" / "kept"
CORPUS, BUCKET = "s3://sounds/corpus", "s3://sounds/bucket"
FRONT_END: dict[str, Any] = {
    "sample_rate": 8_000, "window_s": 1.0, "hop_s": 1.0, "n_fft": 256, "hop_length": 128,
    "n_mels": 16, "floor_db": -50.0,
}  # fmt: skip
"""Fields of FeatureConfig."""
ROW = ["uri", "start_s", "end_s", "label", "score"]
"""The columns of labels that every format has."""

_RATE = 8_000
_PLACE = Path("/tmp/sounds")
_MODEL = ["--stages", "1", "1", "1", "1", "--channels", "2", "--epochs", "20", "--batch-size", "4"]


def sound(kind: str, pitch_hz: int, seconds: float) -> bytes:
    """A WAV computed with integers, so that it has the same bytes on every machine."""
    n = np.arange(round(seconds * _RATE))
    samples = {
        "click": np.where(n * pitch_hz % _RATE < pitch_hz, 12_000, 0),
        "saw": n * pitch_hz % _RATE - _RATE // 2,
        "square": np.where(2 * n * pitch_hz // _RATE % 2, 3_000, -3_000),
    }[kind]
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(_RATE)
        file.writeframes(samples.astype("<i2").tobytes())
    return data.getvalue()


def known_sound() -> bytes:
    """The recording for which `known.json` has the prediction of each kept bundle."""
    return sound("saw", 333, 2.5)


def put_sounds(client: Any) -> None:
    """Write the corpus and the bucket of all kept files to an S3 server, if they are not there."""
    if any(bucket["Name"] == "sounds" for bucket in client.list_buckets()["Buckets"]):
        return
    client.create_bucket(Bucket="sounds")
    for key, data in _sounds().items():
        client.put_object(Bucket="sounds", Key=key, Body=data)


def _sounds() -> dict[str, bytes]:
    sounds = {
        f"corpus/{kind}/{take}.wav": sound(kind, pitch + 20 * take, 1.0)
        for kind, pitch in (("click", 10), ("saw", 300), ("square", 900))
        for take in range(4)
    }
    return sounds | {
        "bucket/one.wav": sound("saw", 310, 2.5),
        "bucket/day/two.wav": sound("square", 930, 1.0),
        "bucket/day/three.wav": sound("click", 25, 2.0),
        "bucket/broken.wav": b"no sound",
        "bucket/notes.txt": b"Battery changed at noon.\n",
    }


def main() -> None:
    """Make a folder of tests/contract/kept with the code that Python imports."""
    to = KEPT / sys.argv[1]
    # From this checkout, because Python imports the modules of the other one.
    server = runpy.run_path(str(ROOT / "benchmarks" / "seaweed.py"))["SeaweedFS"]()
    try:
        _PLACE.mkdir()
        os.environ.update(server.environment)
        put_sounds(server.client())
        _run_verbs()
        known = {"bundle": _bundle(), "features": _features(), "labels": _labels()}
        for name in known:
            drop = shutil.ignore_patterns("tensorboard", "checkpoints")
            shutil.copytree(_PLACE / name, to / name, ignore=drop)
        (to / "known.json").write_text(json.dumps(known, indent=1) + "\n")
    finally:
        server.close()
        shutil.rmtree(_PLACE)


def _has(module: str) -> bool:
    import audiocnn

    return (Path(audiocnn.__file__).parent / f"{module}.py").exists()


def _run_verbs() -> None:
    front_end = [f"--{name.replace('_', '-')}={value}" for name, value in FRONT_END.items()]
    front_end += ["--recipe", "demo", "--workers", "1"]
    _verb("ingest", CORPUS, "--to", "features", "--folds", "2", *front_end)
    _verb("train", "features", "--to", "bundle", *front_end, *_MODEL)
    if _has("model/calibration"):
        from audiocnn.model.bundle import recalibrate
        from audiocnn.model.calibration import Calibration

        thresholds = (0.3, 0.99, 0.3)  # 0.99 is not always reached
        recalibrate(str(_PLACE / "bundle"), Calibration(temperature=1.5, thresholds=thresholds))
    label = ["label", BUCKET, "--bundle", "bundle", "--to", "labels", "--workers", "1", "--top-k"]
    if not _has("labels/label_set"):
        _verb(*label, "2")
        return
    _verb(*label, "2", "--embeddings", "--formats", "csv")
    _verb(*label, "1", "--new-version")


def _verb(*words: str) -> None:
    command = "from pipelines.cli import main; main()"
    subprocess.run([sys.executable, "-c", command, *words], cwd=_PLACE, check=True)


def _bundle() -> dict[str, Any]:
    from audiocnn.model.predictor import Predictor

    found = Predictor.load(_PLACE / "bundle").predict(known_sound(), top_k=3)
    return {
        "fingerprint": found.bundle,
        "labels": [window.label for window in found.windows],
        "scores": [dict(window.top_k) for window in found.windows],
    }


def _features() -> dict[str, Any]:
    from audiocnn.features.feature_set import FeatureSet

    features = FeatureSet.read(str(_PLACE / "features"))
    rows = features.load(list(features.folds))
    means = rows.logmel.astype(np.float64).mean(axis=(1, 2)).round(4).tolist()
    return {
        "fingerprint": features.fingerprint,
        "means": dict(sorted(zip(rows.clip_ids, means, strict=True))),
    }


def _labels() -> list[dict[str, Any]]:
    parts = sorted((_PLACE / "labels" / "parts").glob("*.parquet"))
    rows = pa.concat_tables([pq.read_table(part, columns=ROW) for part in parts]).to_pylist()
    return sorted(rows, key=lambda row: (row["uri"], row["start_s"]))


if __name__ == "__main__":
    main()
