"""Each verb removes and replaces only its own files in a folder; no Ray is started."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch

from audiocnn import storage
from audiocnn.corpus import synthetic
from audiocnn.errors import ConfigError
from audiocnn.features.feature_set import FeatureSet
from audiocnn.labels import label_set
from audiocnn.labels.part import FORMAT
from audiocnn.model.predictor import Predictor
from audiocnn.storage import output_folder
from audiocnn.storage.output_folder import FEATURES, LABELS
from audiocnn.training import checkpoint
from helpers import strangers
from helpers.common import SMALL, make_bundle
from helpers.small_labels import write_notes
from helpers.small_parts import features_part, labels_part
from pipelines.evaluate import Models, evaluate
from pipelines.ingest import job as ingest_job
from pipelines.label.job import label
from pipelines.options import Demo, Evaluate, Ingest, Label, Review, Train
from pipelines.review import review
from pipelines.tools import demo
from pipelines.train import job as train_job
from pipelines.train.plan import TrainPlan, log_suffix

DAMAGED = b"PAR1" + b"\xff" * 64 + (64).to_bytes(4, "little") + b"PAR1"


@pytest.fixture(autouse=True)
def _no_ray() -> Iterator[None]:
    before = ray.is_initialized()
    yield
    assert ray.is_initialized() == before


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folders") / "bundle"
    make_bundle(folder)
    return folder


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# Parts.


def test_a_part_is_known_by_the_ledger_of_its_verb(tmp_path: Path, bundle: Path) -> None:
    mine, theirs = features_part(tmp_path), labels_part(tmp_path, bundle)
    copy = tmp_path / "parts" / "part-copy.parquet"
    shutil.copy(mine, copy)
    pq.write_table(pa.table({"x": [1]}), tmp_path / "parts" / "part-00000.parquet")
    (tmp_path / "parts" / "part-damaged.parquet").write_bytes(DAMAGED)
    (tmp_path / "parts" / "part-link.parquet").symlink_to(tmp_path / "nowhere")
    strangers.plant(tmp_path)
    before = names(tmp_path)
    swept = ingest_job._sweep(str(tmp_path), {})
    assert names(tmp_path) == before - {str(mine.relative_to(tmp_path))}
    assert {Path(path).name for path in swept.others} == {
        "part-00000.parquet", "part-copy.parquet", "part-damaged.parquet", "part-link.parquet",
        "part-mine.parquet", theirs.name,
    }  # fmt: skip
    mine = features_part(tmp_path)
    others = label_set.sweep(str(tmp_path), {})
    assert names(tmp_path) == before - {str(theirs.relative_to(tmp_path))}
    assert f"parts/{mine.name}" in others
    assert strangers.found(tmp_path).keys() == set(strangers.NAMES)


def test_a_copy_of_a_part_is_not_what_a_run_goes_on_with(tmp_path: Path) -> None:
    mine = features_part(tmp_path)
    for copy in ("part-copy.parquet", f"deep/{mine.name}", "copy of a part"):
        (tmp_path / "parts" / "deep").mkdir(exist_ok=True)
        shutil.copy(mine, tmp_path / "parts" / copy)
    (ledger,) = ingest_job._ledgers(str(tmp_path))
    assert ledger.part == f"parts/{mine.name}"
    mine.unlink()
    assert ingest_job._ledgers(str(tmp_path)) == []


def test_parts_without_a_ledger_are_known_by_the_note_that_lists_them(tmp_path: Path) -> None:
    """Parts of the first formats and damaged parts have no readable ledger."""
    listed = ["parts/part-00000.parquet", "parts/part-00001.parquet"]
    for path in [*listed, "parts/part-00002.parquet", "parts/part-0000aaaa-000003.parquet"]:
        strangers.plant(tmp_path, (path,))
    old = {"format": "audiocnn.labels/1", "parts": listed[:1]}
    note = {"format": FORMAT, "listings": ["0000aaaa"], "replaced": []}
    others = label_set.sweep(str(tmp_path), {"summary.json": old, "labels.json": note})
    assert others == [listed[1], "parts/part-00002.parquet"]
    features = {"format": "audiocnn.features/1", "parts": {path: {} for path in listed}}
    swept = ingest_job._sweep(str(tmp_path), {"features.json": features})
    assert swept.others == ["parts/part-00002.parquet"]


def test_labels_are_cleared_and_other_versions_of_them_stay(tmp_path: Path, bundle: Path) -> None:
    planted = strangers.plant(tmp_path)
    note = {"format": FORMAT, "listings": ["0000aaaa"]}
    for folder in (tmp_path, tmp_path / "version-2"):
        labels_part(folder, bundle)
        storage.write_json(f"{folder}/labels.json", note)
        storage.write_json(f"{folder}/summary.json", {"format": FORMAT})
        for name in ("failures.parquet", "events.parquet", "manifest-0000aaaa.parquet"):
            (folder / name).write_bytes(b"ours")
    before = names(tmp_path)
    label_set.clear(output_folder.claim(str(tmp_path), LABELS))
    assert before - names(tmp_path) == {
        "summary.json", "failures.parquet", "events.parquet", "manifest-0000aaaa.parquet",
        "parts/part-0000aaaa-000000.parquet",
    }  # fmt: skip
    assert strangers.found(tmp_path) == planted


# Bundles.


def job_of(to: Path, **changes: Any) -> TrainPlan:
    features = FeatureSet(
        uri="f", config=SMALL, classes=("a", "b"), corpus="c", counts={}, parts={},
        folds={1: {"a": 1}, 2: {"b": 1}}, bands={},
    )  # fmt: skip
    options = Train(features="f", to=str(to), data="memory", **changes)
    return TrainPlan(options=options, features=features, train_folds=[1], to=str(to))


@pytest.mark.parametrize("old", [False, True])
def test_a_training_knows_its_own_files_by_their_job(tmp_path: Path, old: bool) -> None:
    job = job_of(tmp_path, test_fold=2)
    storage.write_json(f"{tmp_path}/job.json", job.content if old else job.note)
    checkpoint.write(job.checkpoint, {"job": job.fingerprint})
    for name in ("model.safetensors", "predictions.parquet"):
        (tmp_path / name).write_bytes(b"ours")
    logs = tmp_path / "tensorboard"
    ours = logs / f"events.out.tfevents.1.host.2.3{log_suffix(job.fingerprint)}"
    logs.mkdir()
    ours.write_bytes(b"ours")
    planted = strangers.plant(tmp_path)
    output = train_job.claim(str(tmp_path))
    assert set(output.files) == {"model.safetensors", "predictions.parquet", "checkpoint.pt"}
    train_job.begin(job, output)
    assert ours.exists()  # the training resumes from its checkpoint
    train_job.begin(replace(job, options=replace(job.options, overwrite=True)), output)
    assert names(tmp_path) == {*planted, "job.json"}
    assert strangers.found(tmp_path) == planted


def test_what_lies_in_a_bundle_and_was_never_written_there_is_refused(tmp_path: Path) -> None:
    job, another = job_of(tmp_path), job_of(tmp_path, workers=1)
    storage.write_json(f"{tmp_path}/job.json", job.note)
    (tmp_path / "predictions.parquet").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"predictions\.parquet is there, and train did not"):
        train_job.claim(str(tmp_path))
    (tmp_path / "predictions.parquet").unlink()
    for write in (
        lambda: checkpoint.write(job.checkpoint, {"job": another.fingerprint}),
        lambda: torch.save({"weights": torch.zeros(1)}, job.checkpoint),
        lambda: Path(job.checkpoint).write_bytes(b"mine"),
    ):
        write()
        with pytest.raises(ConfigError, match=r"checkpoint\.pt is there, and train did not"):
            train_job.claim(str(tmp_path))


def test_the_models_of_an_evaluation_are_those_of_both_runs() -> None:
    first = Models(to="r", folds=[2, 1], seeds=[7])
    both = first.and_more(Models(to="r", folds=[3], seeds=[3, 7]))
    assert (both.folds, both.seeds) == ([1, 2, 3], [7, 3])
    assert both.folder(3, 7) == "r/folds/3"
    assert both.folder(3, 3) == "r/folds/3.seed3"
    report = {"folds": [{"fold": 1, "seed": 7}, {"fold": 2, "seed": 7}]}
    assert first.are_in(report)
    assert not both.are_in(report)


# Every verb, with the folder of every other verb.


@pytest.fixture
def calls(tmp_path: Path, bundle: Path) -> dict[str, Callable[..., Any]]:
    """Functions that run a verb, by its output; they take the folder and whether to overwrite."""
    (tmp_path / "bucket").mkdir()
    labels = str(tmp_path / "given-labels")
    write_notes(labels, str(tmp_path / "bucket"), Predictor.load(str(bundle)), str(bundle))
    given = {"bucket": str(tmp_path / "bucket"), "bundle": str(bundle)}
    return {
        "features": lambda to, over: ingest_job.ingest(Ingest(corpus="c", to=to, overwrite=over)),
        "bundle": lambda to, over: train_job.train(Train(features="f", to=to, overwrite=over)),
        "report": lambda to, over: evaluate(Evaluate(features="f", to=to, overwrite=over)),
        "labels": lambda to, over: label(Label(**given, to=to, overwrite=over)),  # type: ignore[arg-type]
        "review": lambda to, over: review(Review(labels=labels, to=to, overwrite=over)),
        "demo": lambda to, _: demo.demo(Demo(to=to)),
    }


@pytest.fixture
def folders(tmp_path: Path, bundle: Path) -> dict[str, Path]:
    """The output folder of each verb, by name, with files of somebody else in it."""
    made = {name: tmp_path / name for name in ("features", "bundle", "report", "labels")}
    made |= {name: tmp_path / name for name in ("review", "demo")}
    for name, folder in made.items():
        strangers.plant(folder)
        if name in ("review", "demo"):
            storage.write_json(f"{folder}/{name}.json", {"format": f"audiocnn.{name}/1"})
    features_part(made["features"])
    storage.write_json(f"{made['features']}/features.json", {"format": "audiocnn.features/2"})
    shutil.copytree(bundle, made["bundle"], dirs_exist_ok=True)
    shutil.copytree(bundle, made["report"] / "folds" / "1")
    storage.write_json(f"{made['report']}/report.json", {"format": "audiocnn.report/2"})
    labels_part(made["labels"], bundle)
    storage.write_json(f"{made['labels']}/labels.json", {"format": FORMAT, "listings": []})
    return made


@pytest.mark.parametrize("overwrite", [False, True])
def test_every_verb_refuses_the_folder_of_every_other(
    calls: dict[str, Callable[..., Any]], folders: dict[str, Path], overwrite: bool
) -> None:
    for verb, call in calls.items():
        for name, folder in folders.items():
            if verb != name:
                before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
                with pytest.raises(ConfigError, match=f"it holds (a )?{name} .*name another"):
                    call(str(folder), overwrite)
                after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
                assert after == before


def test_a_strangers_demo_json_makes_no_demo(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text('{"mine": true}')
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / "precious.wav").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"demo\.json is there, and demo did not write it"):
        demo.demo(Demo(to=str(tmp_path)))
    assert names(tmp_path) == {"demo.json", "bucket/precious.wav"}


def test_a_corpus_that_a_link_leads_to_is_not_written_into_by_the_demo(tmp_path: Path) -> None:
    to, link = tmp_path / "demo", tmp_path / "link"
    storage.write_json(f"{to}/demo.json", {"format": "audiocnn.demo/1"})
    strangers.plant(to, ("corpus/dog/1.wav",))
    link.symlink_to(to / "corpus")
    with pytest.raises(ConfigError, match=f"^--to {to}: the corpus is in this folder"):
        demo.demo(Demo(corpus=str(link), to=str(to)))
    assert names(to) == {"demo.json", "corpus/dog/1.wav"}


def test_a_bucket_of_the_demo_is_made_anew_around_what_is_not_its_own(tmp_path: Path) -> None:
    sounds: list[synthetic.File] = [("2/notes.wav", b"Battery changed at noon.\n", None)]
    sounds += [(f"{day}/{n}.wav", f"{day}{n}".encode(), "bell") for day in "12" for n in "ab"]
    truth = demo._write(str(tmp_path), "bucket", sounds)
    assert truth == {path: "bell" for path, _, name in sounds if name}
    first = names(tmp_path)
    assert first == {*(f"bucket/{path}" for path, _, _ in sounds), "bucket.json"}
    changed = tmp_path / "bucket" / "1" / "a.wav"
    changed.write_bytes(b"mine")
    planted = strangers.plant(tmp_path, ("bucket/mine.wav", "bucket/1/mine.wav"))
    assert demo._write(str(tmp_path), "bucket", sounds) == truth
    assert names(tmp_path) == {*first, *planted, "bucket/1/a.wav.kept-1"}
    assert (tmp_path / "bucket" / "1" / "a.wav.kept-1").read_bytes() == b"mine"
    assert strangers.found(tmp_path, tuple(planted)) == planted
    # For another corpus, the sounds that it does not have are removed.
    demo._write(str(tmp_path), "bucket", sounds[1:2])
    assert names(tmp_path) == {
        *planted, "bucket.json", "bucket/1/a.wav", "bucket/1/a.wav.kept-1"
    }  # fmt: skip


def test_a_generated_corpus_is_written_over_nobodys_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    some = partial(synthetic.corpus_files, 2)
    monkeypatch.setattr(synthetic, "corpus_files", some)
    mine = tmp_path / "corpus" / "bell" / "1-0-A.wav"
    planted = strangers.plant(tmp_path, ("corpus/bell/1-0-A.wav", "corpus/notes.txt"))
    for _ in range(2):
        assert demo._corpus("synthetic", str(tmp_path)) == f"{tmp_path}/corpus"
        assert {path: (tmp_path / "corpus" / path).read_bytes() for path, _, _ in some()} == {
            path: data for path, data, _ in some()
        }
        kept = mine.with_name("1-0-A.wav.kept-1")
        assert kept.read_bytes() == planted["corpus/bell/1-0-A.wav"]
        assert (tmp_path / "corpus" / "notes.txt").read_bytes() == planted["corpus/notes.txt"]
        assert not mine.with_name("1-0-A.wav.kept-2").exists()
    assert capsys.readouterr().out.count("is not the file that demo wrote: it is kept as") == 1
    # Bucket and corpus share one list; writing one of them removes no file of the other.
    demo._write(str(tmp_path), "bucket", [("a.wav", b"a", "bell")])
    before = names(tmp_path)
    demo._corpus("synthetic", str(tmp_path))
    assert names(tmp_path) == before


def test_a_folder_of_ones_own_is_not_refused(tmp_path: Path) -> None:
    features_part(tmp_path)
    storage.write_json(f"{tmp_path}/features.json", {"format": "audiocnn.features/2"})
    before = json.loads((tmp_path / "features.json").read_text())
    assert output_folder.claim(str(tmp_path), FEATURES).notes == {"features.json": before}
