"""The report of an evaluation: `report.json` and one self-contained HTML page."""

import base64
import hashlib
import html
import io
import json
from dataclasses import asdict, dataclass
from typing import Any

import librosa.display
import matplotlib
import numpy as np
import pyarrow as pa
import soundfile
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from audiocnn import metrics, storage
from audiocnn.audio import windows
from audiocnn.config import FeatureConfig
from audiocnn.errors import AudioError, StorageError
from audiocnn.featureset import FeatureSet

FORMAT = "audiocnn.report/1"
_MISTAKES_DRAWN = 8

PREDICTIONS = pa.schema(
    [
        ("clip_id", pa.string()),
        ("uri", pa.string()),
        ("label", pa.string()),
        ("scores", pa.list_(pa.float32())),
    ]
)
"""Columns of a bundle's `predictions.parquet`: a row a clip of the tested fold."""


@dataclass(frozen=True, kw_only=True)
class FoldResult:
    """How one fold's model scored the clips of its fold; `scores` is [clips, classes]."""

    fold: int
    bundle: str
    clip_ids: list[str]
    uris: list[str]
    labels: list[str]
    scores: np.ndarray

    def confusion(self, classes: tuple[str, ...]) -> np.ndarray:
        """Counts [classes, classes]: rows are the truth."""
        truth = np.array([classes.index(label) for label in self.labels])
        return metrics.confusion_matrix(truth, self.scores.argmax(axis=1), len(classes))

    def table(self) -> pa.Table:
        """As `predictions.parquet` has it."""
        columns = [self.clip_ids, self.uris, self.labels, list(self.scores.astype(np.float32))]
        return pa.Table.from_arrays(
            [pa.array(c, f.type) for c, f in zip(columns, PREDICTIONS, strict=True)],
            schema=PREDICTIONS,
        )

    @staticmethod
    def of_table(table: pa.Table, fold: int, bundle: str) -> "FoldResult":
        """What `table` wrote."""
        return FoldResult(
            fold=fold,
            bundle=bundle,
            clip_ids=table["clip_id"].to_pylist(),
            uris=table["uri"].to_pylist(),
            labels=table["label"].to_pylist(),
            scores=np.array(table["scores"].to_pylist()),
        )


def predictions_sha256(table: pa.Table) -> str:
    """Names the content of a `predictions.parquet`, by which its bundle knows it."""
    return hashlib.sha256(json.dumps(table.to_pylist()).encode()).hexdigest()


def summarise(results: list[FoldResult], features: FeatureSet) -> dict[str, Any]:
    """The content of `report.json`. Accuracies are of whole clips; deviation is over folds."""
    classes = features.classes
    by_fold = [result.confusion(classes) for result in results]
    accuracies = [metrics.accuracy(confusion) for confusion in by_fold]
    together = np.sum(by_fold, axis=0)
    return {
        "format": FORMAT,
        "features": features.fingerprint,
        "classes": list(classes),
        "accuracy_mean": float(np.mean(accuracies)),
        "accuracy_std": float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None,
        "macro_f1": metrics.macro_f1(together, classes),
        "clips": int(together.sum()),
        "folds": [
            {"fold": r.fold, "clips": len(r.labels), "accuracy": a, "bundle": r.bundle}
            for r, a in zip(results, accuracies, strict=True)
        ],
        "per_class": [asdict(row) for row in metrics.per_class(together, classes)],
        "confusion": together.tolist(),
        "mistakes": _mistakes(results, classes),
    }


def _mistakes(results: list[FoldResult], classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Every wrong clip, the most confident first."""
    wrong = []
    for result in results:
        for index, label in enumerate(result.labels):
            best = int(result.scores[index].argmax())
            if classes[best] != label:
                row: dict[str, Any] = {"clip_id": result.clip_ids[index], "fold": result.fold}
                row |= {"uri": result.uris[index], "label": label, "predicted": classes[best]}
                wrong.append({**row, "score": float(result.scores[index, best])})
    return sorted(wrong, key=lambda row: -row["score"])


def write_report(
    to: str, results: list[FoldResult], features: FeatureSet, title: str, made_with: str
) -> dict[str, Any]:
    """Write `report.html` and `report.json` below a URI; returns the latter's content.

    `made_with` says in a line what the models were made with.
    """
    summary = summarise(results, features)
    page = _page(title, made_with, summary, _draw_mistakes(summary["mistakes"], features))
    storage.write_bytes(storage.join(to, "report.html"), page.encode())
    storage.write_json(storage.join(to, "report.json"), summary)
    return summary


def confusion_figure(confusion: np.ndarray, classes: tuple[str, ...]) -> Figure:
    """A confusion matrix as a picture: rows are the truth, shares of a row as colours."""
    size = 2.6 + 0.42 * len(classes)
    figure = Figure(figsize=(size, size * 0.92), layout="constrained")
    axes = figure.add_subplot()
    shares = confusion / np.maximum(1, confusion.sum(axis=1, keepdims=True))
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(classes)), classes, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    figure.colorbar(image, ax=axes, label="part of the true class", fraction=0.04)
    if len(classes) <= 20:
        for row, column in np.argwhere(confusion):
            colour = "white" if shares[row, column] > 0.55 else "black"
            text = str(confusion[row, column])
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    return figure


def _class_figure(rows: list[dict[str, Any]]) -> Figure:
    rows = sorted(rows, key=lambda row: row["f1"])
    figure = Figure(figsize=(4.4, 1 + 0.3 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh([row["name"] for row in rows], [row["f1"] for row in rows], color="#4878a8")
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.set_xlim(0, 1.1)
    axes.set_xlabel("F1")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def logmel_figure(logmel: np.ndarray, config: FeatureConfig, title: str) -> Figure:
    """A log-mel [n_mels, n_frames] with its axes in seconds and Hz and its scale in dB."""
    figure = Figure(figsize=(4.6, 2.7), layout="constrained")
    axes = figure.add_subplot()
    loud = np.maximum(logmel.astype(np.float32), logmel.max() - 80.0)
    image = draw_logmel(axes, loud, config)
    axes.set_title(title, fontsize=9)
    figure.colorbar(image, ax=axes, label="dB")
    return figure


def draw_logmel(axes: Axes, logmel: np.ndarray, config: FeatureConfig) -> Any:
    """Draw a log-mel [n_mels, n_frames] the right way up; returns the picture, for a scale."""
    image = librosa.display.specshow(
        logmel.astype(np.float32),
        sr=config.sample_rate,
        hop_length=config.hop_length,
        fmin=config.f_min,
        fmax=config.f_max_hz,
        x_axis="time",
        y_axis="mel",
        htk=True,
        cmap="magma",
        ax=axes,
    )
    axes.set_xlabel("seconds")
    axes.set_ylabel("Hz")
    return image


def _draw_mistakes(mistakes: list[dict[str, Any]], features: FeatureSet) -> list[str]:
    """The first windows of the most confident mistakes, to look at and to listen to."""
    drawn = mistakes[:_MISTAKES_DRAWN]
    wanted = {row["clip_id"]: row for row in drawn}
    pictures: dict[str, str] = {}
    for fold in sorted({row["fold"] for row in drawn}):
        rows = features.load([fold])
        for index, clip_id in enumerate(rows.clip_ids):
            if clip_id in wanted and clip_id not in pictures:
                row = wanted[clip_id]
                title = f"{row['label']} taken for {row['predicted']} ({row['score']:.2f})"
                figure = logmel_figure(rows.logmel[index], features.config, title)
                picture = _picture(figure, f"log-mel of {clip_id}")
                sound = _sound(row["uri"], features.config)
                pictures[clip_id] = f"<figure>{picture}{sound}</figure>"
    return [pictures[row["clip_id"]] for row in drawn]


def _sound(uri: str, config: FeatureConfig) -> str:
    """A recording's first window as the model heard it; nothing where it is gone by now."""
    try:
        window = next(windows(storage.read_bytes(uri), config))
    except (StorageError, AudioError):
        return ""
    buffer = io.BytesIO()
    soundfile.write(buffer, window.samples, config.sample_rate, format="OGG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<audio controls src="data:audio/ogg;base64,{data}"></audio>'


def _picture(figure: Figure, description: str) -> str:
    buffer = io.BytesIO()
    with matplotlib.rc_context({"font.size": 9}):
        figure.savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{html.escape(description)}">'


def _table(columns: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; color: #1c2733; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.big { font-size: 2.4rem; font-weight: 650; } .big small { font-size: 1rem; color: #5a6b7b; }
table { border-collapse: collapse; } th, td { padding: .2rem .8rem; text-align: right; }
th:first-child, td:first-child { text-align: left; } th { border-bottom: 1px solid #c9d3dc; }
.row { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
img { max-width: 100%; } figure { margin: 0; width: 19.5rem; }
audio { display: block; width: 100%; }
code { color: #5a6b7b; }
"""


def _page(title: str, made_with: str, summary: dict[str, Any], mistakes: list[str]) -> str:
    classes = tuple(summary["classes"])
    confusion = _picture(
        confusion_figure(np.array(summary["confusion"]), classes), "confusion matrix"
    )
    deviation = summary["accuracy_std"]
    spread = "" if deviation is None else f" ± {100 * deviation:.1f}"
    folds = _table(
        ["fold", "clips", "accuracy", "bundle"],
        [
            [str(r["fold"]), str(r["clips"]), f"{100 * r['accuracy']:.1f} %", r["bundle"]]
            for r in summary["folds"]
        ],
    )
    per_class = _table(
        ["class", "clips", "precision", "recall", "F1"],
        [
            [r["name"], str(r["clips"]), *(f"{r[k]:.2f}" for k in ("precision", "recall", "f1"))]
            for r in summary["per_class"]
        ],
    )
    wrong = (
        "<p>None.</p>"
        if not mistakes
        else _table(
            ["clip", "fold", "true", "predicted", "score"],
            [
                [r["clip_id"], str(r["fold"]), r["label"], r["predicted"], f"{r['score']:.2f}"]
                for r in summary["mistakes"][:30]
            ],
        )
    )
    bars = _picture(_class_figure(summary["per_class"]), "F1 of each class")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>
<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
<p class="big">{100 * summary["accuracy_mean"]:.1f}{spread} %
<small>accuracy of whole clips, mean{" ± deviation" if spread else ""} over
{len(summary["folds"])} tested fold(s), {summary["clips"]} clips;
macro F1 {summary["macro_f1"]:.3f}</small></p>
<p>Each fold was tested once, by a model that never saw it, after its last epoch.
{html.escape(made_with)}; features <code>{summary["features"]}</code>.</p>
<h2>Folds</h2>{folds}
<h2>Confusion</h2><div class="row">{confusion}</div>
<h2>Classes</h2><div class="row">{per_class}{bars}</div>
<h2>Most confident mistakes</h2>
<p>{len(summary["mistakes"])} of {summary["clips"]} clips are wrong. Drawn are the first
windows of the {len(mistakes)} most confident ones; at most 30 are listed.</p>
<div class="row">{"".join(mistakes)}</div>{wrong}
</body></html>
"""
