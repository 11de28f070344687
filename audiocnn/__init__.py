"""Labelled audio in object storage -> a classifier you can look inside.

The public surface, loaded when it is first used:

>>> from audiocnn import Predictor
>>> Predictor.load("bundle").predict("dog.wav").label
'dog'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audiocnn.bundle import Bundle
    from audiocnn.config import AudioLimits, FeatureConfig, ModelConfig, TrainConfig
    from audiocnn.corpus import Clip, Corpus
    from audiocnn.errors import AudioCNNError, AudioError
    from audiocnn.features import LogMel
    from audiocnn.featureset import FeatureSet
    from audiocnn.layouts import read_corpus
    from audiocnn.model import AudioCNN, Taps
    from audiocnn.predictor import Prediction, Predictor

__version__ = "0.1.0"

_HOMES = {
    "AudioCNN": "model",
    "AudioCNNError": "errors",
    "AudioError": "errors",
    "AudioLimits": "config",
    "Bundle": "bundle",
    "Clip": "corpus",
    "Corpus": "corpus",
    "FeatureConfig": "config",
    "FeatureSet": "featureset",
    "LogMel": "features",
    "ModelConfig": "config",
    "Prediction": "predictor",
    "Predictor": "predictor",
    "Taps": "model",
    "TrainConfig": "config",
    "read_corpus": "layouts",
}

__all__ = [
    "AudioCNN",
    "AudioCNNError",
    "AudioError",
    "AudioLimits",
    "Bundle",
    "Clip",
    "Corpus",
    "FeatureConfig",
    "FeatureSet",
    "LogMel",
    "ModelConfig",
    "Prediction",
    "Predictor",
    "Taps",
    "TrainConfig",
    "read_corpus",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'audiocnn' has no attribute {name!r}")
    return getattr(import_module(f"audiocnn.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
