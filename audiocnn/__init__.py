"""Turn labelled audio in object storage into a classifier that can be inspected.

The names below are the public interface. Each one is imported when it is first used:

>>> from audiocnn import Predictor
>>> Predictor.load("bundle").predict("dog.wav").label
'dog'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audiocnn.config import AudioLimits, FeatureConfig, ModelConfig, TrainConfig
    from audiocnn.corpus.clips import Clip, Corpus
    from audiocnn.corpus.read import read_corpus
    from audiocnn.errors import AudioCNNError, AudioError
    from audiocnn.features.feature_set import FeatureSet
    from audiocnn.features.logmel import LogMel
    from audiocnn.model.bundle import Bundle
    from audiocnn.model.predictor import Prediction, Predictor
    from audiocnn.model.resnet import AudioCNN
    from audiocnn.model.taps import Taps

__version__ = "0.1.0"

_HOMES = {
    "AudioCNN": "model.resnet",
    "AudioCNNError": "errors",
    "AudioError": "errors",
    "AudioLimits": "config",
    "Bundle": "model.bundle",
    "Clip": "corpus.clips",
    "Corpus": "corpus.clips",
    "FeatureConfig": "config",
    "FeatureSet": "features.feature_set",
    "LogMel": "features.logmel",
    "ModelConfig": "config",
    "Prediction": "model.predictor",
    "Predictor": "model.predictor",
    "Taps": "model.taps",
    "TrainConfig": "config",
    "read_corpus": "corpus.read",
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
