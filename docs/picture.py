"""Draws the README's picture: a sound of the demo's bucket through the demo's model.

make demo && .venv/bin/python docs/picture.py demo docs/picture.png
"""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

from audiocnn import Predictor, Taps
from audiocnn.report import draw_logmel

LAYERS = ("conv1", "layer1", "layer2", "layer3", "layer4")


def main(demo: str, to: str) -> None:
    """Draw the log-mel, the layers' mean feature maps and the answer."""
    predictor = Predictor.load(f"{demo}/bundle", "cpu")
    config = predictor.bundle.feature
    recording = sorted(Path(demo, "bucket").rglob("recorder-0015.*"))[0]  # a rising chirp
    window = next(predictor.decode(recording.read_bytes()))
    logmel = predictor.features([window.samples])
    with torch.inference_mode(), Taps(predictor.model) as maps:
        predictor.model(torch.from_numpy(logmel).float())
    answer = predictor.predict(recording.read_bytes())

    figure = Figure(figsize=(12, 2.6), layout="constrained")
    axes = figure.subplots(1, 7, width_ratios=[1.9, 1, 1, 1, 1, 1, 1.1])
    draw_logmel(axes[0], logmel[0], config)
    axes[0].set_title("what the model heard")
    for panel, name in zip(axes[1:6], LAYERS, strict=True):
        drawn = maps[name][0].mean(0).numpy()
        panel.imshow(drawn, origin="lower", aspect="auto", cmap="viridis")
        panel.set(title=f"{name} {tuple(maps[name].shape[1:])}", xticks=[], yticks=[])
    names, scores = zip(*reversed(answer.top_k), strict=True)
    bars = axes[6].barh(names, scores, color="#4878a8")
    axes[6].bar_label(bars, fmt="%.2f", fontsize=8, padding=2)
    axes[6].set(title="what it says", xlim=(0, 1.25), xticks=[])
    axes[6].tick_params(labelsize=8)
    axes[6].spines[["top", "right", "bottom"]].set_visible(False)
    for panel in axes:
        panel.title.set_fontsize(8)
    figure.savefig(to, dpi=100)


if __name__ == "__main__":
    main(*sys.argv[1:])
