"""`audiocnn demo`: all steps on one machine, from a corpus to a labelled bucket."""

import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from audiocnn import storage
from audiocnn.audio.decode import AudioLimits, decode
from audiocnn.audio.encode import wav
from audiocnn.audio.recording import closing_source, open_recording
from audiocnn.corpus import synthetic
from audiocnn.corpus.clips import Clip, Corpus
from audiocnn.corpus.download import fetch_esc50
from audiocnn.corpus.file_list import FileList
from audiocnn.corpus.read import read_corpus
from audiocnn.corpus.synthetic import File
from audiocnn.errors import ConfigError
from audiocnn.features.feature_set import FeatureSet
from audiocnn.labels.label_set import read_labels
from audiocnn.storage import output_folder
from pipelines.evaluate import print_report, report_on
from pipelines.ingest.job import ingest
from pipelines.label.job import label
from pipelines.options import Demo, Ingest, Label, Train
from pipelines.recipes import RECIPES
from pipelines.runtime import terminal
from pipelines.train.job import claim, train

_MARKER = "demo.json"
_LIST = "bucket.json"
"""File that lists the sounds the demo wrote, in the bucket and in a generated corpus."""
_FORMAT = "audiocnn.demo/1"
_MOST_EPOCHS = 78
"""Most epochs of a demo: a quarter of those of recipe esc10, so that ESC-10 takes minutes."""


def demo(options: Demo) -> None:
    """Run ingest, train and label, and write a report. Print the outputs and commands to try next.

    Raises AudioCNNError as the verbs do, and for a folder with files that no demo wrote.
    """
    begun = time.monotonic()
    to = _claim(options)
    generated = options.corpus == "synthetic"
    name = options.recipe or ("demo" if generated else "esc10")
    recipe = RECIPES[name]()
    corpus = read_corpus(_corpus(options.corpus, to))
    features = ingest(
        Ingest(
            corpus=corpus.uri,
            to=f"{to}/features",
            recipe=name,
            feature=recipe.feature,
            overwrite=True,
        ),
        corpus,
    )
    fold = max(features.folds)
    train(
        Train(
            features=features.uri,
            to=f"{to}/bundle",
            recipe=name,
            test_fold=fold,
            feature=recipe.feature,
            model=recipe.model,
            training=replace(recipe.training, epochs=min(recipe.training.epochs, _MOST_EPOCHS)),
            overwrite=True,
        )
    )
    print_report(report_on(f"{to}/bundle", features, f"{to}/report"), f"{to}/report")
    clips = synthetic.bucket_files() if generated else fold_files(corpus, features, fold)
    bucket, truth = f"{to}/bucket", _write(to, "bucket", clips)
    label(Label(bucket=bucket, bundle=f"{to}/bundle", to=f"{to}/labels", overwrite=True))
    _say_truth(f"{to}/labels", bucket, truth)
    _say_end(name, corpus.uri, to, time.monotonic() - begun)


def _claim(options: Demo) -> str:
    """Mark and return the demo's folder. Raises ConfigError if files of others might be lost."""
    if not storage.is_local(options.to):
        raise ConfigError(f"--to {options.to}: the demo writes to this machine; name a folder")
    output = output_folder.claim(options.to, output_folder.DEMO)
    to = output.uri
    if os.path.isdir(to) and os.listdir(to) and not output.notes:
        raise ConfigError(f"--to {to}: not empty, and not of an earlier demo; name a new folder")
    named = options.corpus in ("synthetic", "esc50") and not os.path.exists(options.corpus)
    if not named and storage.is_within(storage.real(options.corpus), storage.real(to)):
        raise ConfigError(f"--to {to}: the corpus is in this folder; name another one")
    output_folder.claim(f"{to}/features", output_folder.FEATURES)
    claim(f"{to}/bundle")
    output_folder.claim(f"{to}/report", output_folder.REPORT)
    output_folder.claim(f"{to}/labels", output_folder.LABELS)
    storage.write_json(f"{to}/{_MARKER}", {"format": _FORMAT, "corpus": options.corpus})
    return to


def _corpus(asked: str, to: str) -> str:
    """Return the path of the corpus; generate or download it first if `asked` is its name."""
    if asked == "synthetic":
        terminal.step(f"generate a corpus of {len(synthetic.SOUNDS)} classes of sounds")
        _write(to, "corpus", synthetic.corpus_files())
        return f"{to}/corpus"
    if asked == "esc50" and not os.path.exists(asked):
        terminal.step("download ESC-50 (600 MB, once)")
        with terminal.bar(0) as bar:
            folder = fetch_esc50(Path(to), progress=bar.bytes)
        return str(folder)
    return storage.absolute(asked)


def _write(to: str, folder: str, sounds: Iterable[File]) -> dict[str, str]:
    """Write sounds below a folder of the demo, and delete other sounds of an earlier demo there.

    A file that somebody changed, or put in the place of a sound, is kept under another name.
    Returns the class of each sound, by path.
    """
    kept: dict[str, str] = {}
    truth: dict[str, str] = {}
    files = FileList(to, _LIST, kept.__setitem__)
    for path, data, name in sounds:
        files.write_bytes(f"{folder}/{path}", data)
        if name is not None:
            truth[path] = name
    files.finish((folder,), format=_FORMAT)
    terminal.warn_kept("demo", kept)
    return truth


def fold_files(corpus: Corpus, features: FeatureSet, fold: int) -> Iterator[File]:
    """Yield the clips of a fold as files of a bucket, with new names.

    A clip that is a member of a tar, or a segment of a recording, becomes a file of its own.
    Raises AudioCNNError if a clip was changed since it was listed.
    """
    tested = set(features.load([fold]).clip_ids)
    clips = [clip for clip in corpus.clips if clip.clip_id in tested]
    # Sort by name without folders: folders would sort the bucket by class.
    for index, clip in enumerate(sorted(clips, key=lambda clip: clip.clip_id.rsplit("/", 1)[-1])):
        suffix, data = _file_of(clip, features.config.sample_rate)
        yield f"recording-{index:04d}{suffix}", data, clip.label


def _file_of(clip: Clip, sample_rate: int) -> tuple[str, bytes]:
    """Return the suffix and the bytes of a file that holds only this clip."""
    limits = AudioLimits()
    with closing_source(open_recording(clip.recording, limits.max_bytes)) as source:
        if clip.segment is not None:
            samples = np.concatenate(list(decode(source, sample_rate, limits, clip.segment)))
            return ".wav", wav(samples, sample_rate)
        data = source if isinstance(source, bytes) else source.read()
    return PurePosixPath(clip.uri).suffix, data


def _say_truth(labels: str, bucket: str, truth: dict[str, str]) -> None:
    """Print how many recordings got their true label, which is known only in a demo."""
    seconds: dict[str, Counter[str]] = defaultdict(Counter)
    for row in read_labels(labels).to_pylist():
        seconds[row["uri"]][row["label"]] += row["score"] * (row["end_s"] - row["start_s"])
    right = sum(
        seconds[storage.join(bucket, path)].most_common(1)[0][0] == name
        for path, name in truth.items()
        if storage.join(bucket, path) in seconds
    )
    terminal.say(f"{right} of the bucket's {len(truth)} sound recordings got their true label")


def _say_end(recipe: str, corpus: str, to: str, seconds: float) -> None:
    terminal.step(f"done in {seconds:.0f} s")
    to, audiocnn = terminal.short(to), terminal.command()
    rows = [
        ["your labelled sounds", terminal.short(corpus)],
        ["audiocnn ingest wrote", f"{to}/features"],
        ["audiocnn train wrote", f"{to}/bundle"],
        ["the report", f"{to}/report/report.html"],
        ["your unlabelled sounds", f"{to}/bucket"],
        ["audiocnn label wrote", f"{to}/labels"],
    ]
    for what, uri in rows:
        terminal.say(f"{what:<25}{uri}")
    terminal.step("commands to try next")
    terminal.say(f"{audiocnn} evaluate {to}/features --recipe {recipe} --to {to}/evaluation")
    terminal.say(f"{audiocnn} label YOUR_BUCKET --bundle {to}/bundle --to YOUR_LABELS")
    terminal.say(f"{audiocnn} serve {to}/bundle")
    tensorboard = audiocnn.removesuffix("audiocnn") + "tensorboard"
    terminal.say(f"{tensorboard} --logdir {to}/bundle/tensorboard")
