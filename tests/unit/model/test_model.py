import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from audiocnn.config import ModelConfig
from audiocnn.errors import ConfigError
from audiocnn.model.resnet import AudioCNN
from audiocnn.model.taps import Taps
from pipelines.recipes import RECIPES, esc10, esc50

TINY = ModelConfig(stages=(1, 2, 1, 1), channels=4, dropout=0.0)


def parameters(recipe: str) -> int:
    made = RECIPES[recipe]()
    model = AudioCNN(made.model, made.feature.n_mels, 50)
    return sum(p.numel() for p in model.parameters())


def test_taps_name_every_feature_map_of_one_forward() -> None:
    model = AudioCNN(TINY, 32, 3).eval()
    logmel = torch.randn(2, 32, 64)
    with torch.inference_mode(), Taps(model) as maps:
        logits = model(logmel)
    expected = {"conv1"}
    for layer, blocks in enumerate(TINY.stages, 1):
        expected.add(f"layer{layer}")
        for block in range(blocks):
            expected |= {f"layer{layer}.block{block}.{part}" for part in ("conv", "relu")}
    assert set(maps) == expected
    assert {name: tuple(maps[name].shape) for name in ("conv1", "layer1", "layer2", "layer4")} == {
        "conv1": (2, 4, 8, 16),
        "layer1": (2, 4, 8, 16),
        "layer2": (2, 8, 4, 8),
        "layer4": (2, 32, 1, 2),
    }
    head = model.fc(maps["layer4"].mean((2, 3)))
    assert torch.allclose(logits, head, atol=1e-6)


def test_taps_see_before_and_after_the_shortcut() -> None:
    model = AudioCNN(TINY, 32, 3).eval()
    with torch.inference_mode(), Taps(model) as maps:
        model(torch.randn(1, 32, 64))
    added = maps["layer2.block0.relu"] + maps["layer2.block1.conv"]
    assert torch.allclose(torch.relu(added), maps["layer2.block1.relu"], atol=1e-6)
    assert (maps["layer2.block1.conv"] < 0).any()


def test_taps_leave_nothing_behind() -> None:
    model = AudioCNN(TINY, 32, 3).eval()
    with Taps(model) as maps:
        model(torch.randn(1, 32, 64))
    kept = dict(maps)
    model(torch.randn(1, 32, 64))
    assert all(maps[name] is kept[name] for name in kept)
    assert not any(m._forward_hooks for m in model.modules())


def test_normalisation_travels_with_the_weights() -> None:
    model = AudioCNN(TINY, 32, 3).eval()
    logmel = torch.randn(1, 32, 64)
    before = model(logmel)
    model.mean += 10
    model.std *= 3
    assert torch.allclose(model(logmel * 3 + 10), before, atol=1e-4)
    assert {"mean", "std"} <= set(model.state_dict())


def test_the_maximum_over_time_hears_what_is_short() -> None:
    model = AudioCNN(replace(TINY, pooling="mean+max"), 32, 3).eval()
    with torch.inference_mode(), Taps(model) as maps:
        pooled = model.embed(torch.randn(2, 32, 64))
    over_bands = maps["layer4"].mean(2)
    expected = over_bands.mean(2) + over_bands.max(2).values
    assert torch.allclose(pooled, expected, atol=1e-6)


STEP = """
import torch
from audiocnn.config import ModelConfig
from audiocnn.model.resnet import AudioCNN
for channels in (2, 4, 8):
    model = AudioCNN(ModelConfig(stages=(1, 1, 1, 1), channels=channels), 128, 3)
    for _ in range(3):
        model(torch.randn(8, 128, 431)).sum().backward()
"""


def test_few_channels_on_a_large_map_do_not_crash() -> None:
    """With AVX-512, oneDNN of torch 2.13 crashes in the gradient of a strided 1x1 convolution."""
    done = subprocess.run([sys.executable, "-c", STEP], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_any_number_of_bands_and_frames_goes_through() -> None:
    for bands, frames in [(8, 1), (13, 37), (128, 216)]:
        assert AudioCNN(TINY, bands, 3).eval()(torch.randn(1, bands, frames)).shape == (1, 3)


def test_the_recipes_sizes() -> None:
    assert esc50().model.stages == (3, 4, 6, 3)
    assert parameters("esc50") > 20e6
    assert parameters("esc10") <= 3e6
    assert esc10().training.epochs * 320 <= 100_000


@pytest.mark.parametrize("bad", [{"stages": (1, 0, 1, 1)}, {"channels": 0}, {"dropout": 1.0}])
def test_models_that_cannot_be_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        ModelConfig(**bad)  # type: ignore[arg-type]
