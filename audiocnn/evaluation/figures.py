"""Figures of an evaluation, drawn by matplotlib without a screen."""

import base64
import html
import io
from typing import Any

import librosa.display
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from audiocnn.config import FeatureConfig
from audiocnn.features.logmel import band_centres
from audiocnn.model.calibration import Reliability

_NAMED = 60
"""Most classes for which a figure has room for names."""


def confusion_figure(confusion: np.ndarray, classes: tuple[str, ...]) -> Figure:
    """Draw counts [n_classes, n_classes], rows true; colours are fractions of a row.

    With more than `_NAMED` classes, their names are left out.
    """
    named = len(classes) <= _NAMED
    size = 2.6 + 0.42 * min(len(classes), _NAMED)
    figure = Figure(figsize=(size, size * 0.92), layout="constrained")
    axes = figure.add_subplot()
    shares = confusion / np.maximum(1, confusion.sum(axis=1, keepdims=True))
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if named:
        places = range(len(classes))
        axes.set_xticks(
            places, classes, rotation=60, ha="right", rotation_mode="anchor", parse_math=False
        )
        axes.set_yticks(places, classes, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    figure.colorbar(image, ax=axes, label="fraction of the true class", fraction=0.04)
    if len(classes) <= 20:
        for row, column in np.argwhere(confusion):
            colour = "white" if shares[row, column] > 0.55 else "black"
            text = str(confusion[row, column])
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    return figure


def class_figure(rows: list[dict[str, Any]]) -> Figure:
    """Draw the F1 of the `_NAMED` worst classes as bars, the worst at the bottom.

    Classes without F1 are left out.
    """
    rows = sorted((row for row in rows if row["f1"] is not None), key=lambda row: row["f1"])
    rows = rows[:_NAMED]
    figure = Figure(figsize=(4.4, 1 + 0.3 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(range(len(rows)), [row["f1"] for row in rows], color="#4878a8")
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows], parse_math=False)
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.set_xlim(0, 1.1)
    axes.set_xlabel("F1")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def logmel_figure(logmel: np.ndarray, config: FeatureConfig, title: str) -> Figure:
    """Draw a log-mel [n_mels, n_frames] in decibels; axes are in seconds and Hz.

    Values more than 80 dB below the maximum are raised to that level.
    """
    figure = Figure(figsize=(4.6, 2.7), layout="constrained")
    axes = figure.add_subplot()
    loud = np.maximum(logmel.astype(np.float32), logmel.max() - 80.0)
    image = draw_logmel(axes, loud, config)
    axes.set_title(title, fontsize=9, parse_math=False)
    figure.colorbar(image, ax=axes, label="dB")
    return figure


def draw_logmel(axes: Axes, logmel: np.ndarray, config: FeatureConfig) -> Any:
    """Draw a log-mel [n_mels, n_frames], low bands at the bottom; return it, for a colour bar."""
    image = librosa.display.specshow(
        logmel.astype(np.float32),
        sr=config.sample_rate,
        hop_length=config.hop_length,
        y_coords=band_centres(config),
        x_axis="time",
        y_axis="mel",
        cmap="magma",
        ax=axes,
    )
    axes.set_xlabel("seconds")
    axes.set_ylabel("Hz")
    return image


def reliability_figure(before: Reliability, after: Reliability) -> Figure:
    """Draw reliability diagrams: accuracy by score, before and after calibration."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    parts = [(before, "softmax scores"), (after, "calibrated scores")]
    for axes, (found, name) in zip(figure.subplots(1, 2, sharey=True), parts, strict=True):
        edges = np.linspace(0, 1, len(found.counts) + 1)
        some = found.counts > 0
        axes.bar(
            edges[:-1][some], found.accuracies[some], width=edges[1], align="edge",
            color="#4878a8", edgecolor="white",
        )  # fmt: skip
        axes.plot([0, 1], [0, 1], color="#8a2b2b", linewidth=1, linestyle="--")
        axes.scatter(found.scores[some], found.accuracies[some], s=10, color="black", zorder=3)
        axes.set_title(f"{name}: error {100 * found.error:.1f} %", fontsize=9)
        axes.set_xlabel("score of the answer")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("fraction of right answers")
    return figure


def picture(figure: Figure, description: str) -> str:
    """Return an HTML element with the figure as a PNG; `description` is its alternative text."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"font.size": 9}):
        figure.savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{html.escape(description)}">'
