"""Write the report of an evaluation: `report.json` and one self-contained HTML page."""

import base64
import html
from typing import Any

import numpy as np

from audiocnn import storage
from audiocnn.audio.decode import AudioLimits, Segment, windows
from audiocnn.audio.encode import encode
from audiocnn.audio.recording import Recording, closing_source, open_recording
from audiocnn.config import FeatureConfig
from audiocnn.corpus.clips import segment_of
from audiocnn.errors import AudioError, StorageError
from audiocnn.evaluation.figures import (
    class_figure,
    confusion_figure,
    logmel_figure,
    picture,
    reliability_figure,
)
from audiocnn.evaluation.predictions import Predictions
from audiocnn.evaluation.summary import silence, summarise
from audiocnn.features.feature_set import FeatureSet
from audiocnn.model.calibration import Calibration, Reliability

_MISTAKES_DRAWN = 8
"""Most mistakes with a picture."""


def write_report(
    to: str,
    results: list[Predictions],
    calibrations: list[Calibration],
    features: FeatureSet,
    *,
    title: str,
    made_with: str,
) -> dict[str, Any]:
    """Write `report.html` and `report.json` below the URI `to`; return the content of the latter.

    `made_with` describes the training of the models in one line. Raises StorageError.
    """
    summary = summarise(results, calibrations, features)
    page = _page(title, made_with, summary, _draw_mistakes(summary["mistakes"], features))
    storage.write_bytes(storage.join(to, "report.html"), page.encode())
    storage.write_json(storage.join(to, "report.json"), summary)
    return summary


def _draw_mistakes(mistakes: list[dict[str, Any]], features: FeatureSet) -> list[str]:
    """Return HTML with picture and sound of the first window of the most confident mistakes."""
    # Draw each clip once, even if the models of several seeds are wrong about it.
    wanted = {row["clip_id"]: row for row in reversed(mistakes)}
    drawn = sorted(wanted.values(), key=lambda row: -row["score"])[:_MISTAKES_DRAWN]
    wanted = {row["clip_id"]: row for row in drawn}
    pictures: dict[str, str] = {}
    for rows in features.stream(sorted({row["fold"] for row in drawn})):
        for index, clip_id in enumerate(rows.clip_ids):
            if clip_id in wanted and clip_id not in pictures:
                row = wanted[clip_id]
                title = f"{row['label']} predicted as {row['predicted']} ({row['score']:.2f})"
                figure = logmel_figure(rows.logmel[index], features.config, title)
                drawn_logmel = picture(figure, f"log-mel of {clip_id}")
                sound = _sound(rows.uris[index], segment_of(clip_id), features.config)
                pictures[clip_id] = f"<figure>{drawn_logmel}{sound}</figure>"
    return [pictures[row["clip_id"]] for row in drawn]


def _sound(uri: str, segment: Segment | None, config: FeatureConfig) -> str:
    """Return HTML with a clip's first window as audio; empty if the clip cannot be read now."""
    try:
        recording = Recording(uri=uri, segment=segment)
        with closing_source(open_recording(recording, AudioLimits().max_bytes)) as source:
            window = next(windows(source, config, segment=segment))
    except (StorageError, AudioError):
        return ""
    data = base64.b64encode(encode(window.samples, config.sample_rate, "ogg")).decode()
    return f'<audio controls src="data:audio/ogg;base64,{data}"></audio>'


def percent(part: float | None) -> str:
    """Return a fraction as text in percent; a dash for None."""
    return "-" if part is None else f"{100 * part:.1f} %"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


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


def _over_seeds(summary: dict[str, Any]) -> str:
    """Return text with the deviation over seeds; empty if there is only one seed."""
    deviation = summary["accuracy_std_seeds"]
    if deviation is None:
        return ""
    means = ", ".join(f"{100 * row['accuracy_mean']:.1f}" for row in summary["seeds"])
    return f"; means of the seeds {means} %, ± {100 * deviation:.1f} over seeds"


def _headline(summary: dict[str, Any]) -> str:
    """Return HTML with the accuracy, and in small print what it was computed from."""
    mean, deviation = summary["accuracy_mean"], summary["accuracy_std"]
    if mean is None:
        return "All clips are silent"
    spread = "" if deviation is None else f" ± {100 * deviation:.1f}"
    folds = len({row["fold"] for row in summary["folds"] if row["accuracy"] is not None})
    return f"""{100 * mean:.1f}{spread} %
<small>accuracy of whole clips, mean{" ± deviation" if spread else ""} over
{folds} tested fold(s), {summary["clips"]} clips;
macro F1 {summary["macro_f1"]:.3f}{_over_seeds(summary)}</small>"""


def _scores(summary: dict[str, Any]) -> str:
    """Return HTML about the reliability of the scores."""
    found = summary["calibration"]
    if found["answered"] is None:
        return "<p>There are no scores: all clips are silent.</p>"
    names = ("counts", "scores", "accuracies")
    before, after = (
        Reliability(**{name: np.array(found[when][name]) for name in names})
        for when in ("before", "after")
    )
    diagram = picture(reliability_figure(before, after), "reliability diagrams")
    if not found["calibrated"]:
        return f"<p>Not calibrated: calibration needs the scores of another fold.</p>{diagram}"
    temperatures = ", ".join(f"{value:.2f}" for value in found["temperatures"])
    return f"""<p>A score should equal the fraction of right answers among the answers with that
score. The expected calibration error is {100 * before.error:.1f} % for plain softmax scores and
{100 * after.error:.1f} % with the temperatures {temperatures}, each fitted on the windows
of the other folds. With the thresholds, {100 * found["answered"]:.0f} % of the clips are answered,
and {100 * (found["accuracy_of_answers"] or 0):.1f} % of these answers are right; the other clips
are “unknown”.</p>{diagram}"""


def _page(title: str, made_with: str, summary: dict[str, Any], mistakes: list[str]) -> str:
    classes = tuple(summary["classes"])
    tests = sum(row["clips"] for row in summary["folds"])
    confusion = picture(
        confusion_figure(np.array(summary["confusion"]), classes), "confusion matrix"
    )
    left_out = f"<p>{silence(summary)}.</p>\n" if summary["silent"] else ""
    columns = ["fold", "seed", "clips", "silent", "accuracy", "bundle"]
    rows = [{**row, "accuracy": percent(row["accuracy"])} for row in summary["folds"]]
    folds = _table(columns, [[str(row[name]) for name in columns] for row in rows])
    per_class = _table(
        ["class", "clips", "precision", "recall", "F1"],
        [
            [r["name"], str(r["clips"]), *(_figure(r[k]) for k in ("precision", "recall", "f1"))]
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
    bars = picture(class_figure(summary["per_class"]), "F1 of each class")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>
<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
<p class="big">{_headline(summary)}</p>
{left_out}<p>Each fold was tested once{" for each seed" if tests > summary["clips"] else ""}, by a
model that never saw it. {html.escape(made_with)}; features
<code>{summary["features"]}</code>.</p>
<h2>Folds</h2>{folds}
<h2>Scores</h2>{_scores(summary)}
<h2>Confusion</h2><div class="row">{confusion}</div>
<h2>Classes</h2><div class="row">{per_class}{bars}</div>
<h2>Most confident mistakes</h2>
<p>{len(summary["mistakes"])} of {tests} answers are wrong. The pictures show the first
windows of the {len(mistakes)} most confident mistakes; the table lists at most 30.</p>
<div class="row">{"".join(mistakes)}</div>{wrong}
</body></html>
"""
