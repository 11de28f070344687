"""A bundle: a folder with a trained model and everything that is needed to use it.

It has `bundle.json` (configs, ordered classes, calibration, metrics, provenance) and
`model.safetensors` (weights and normalisation). Nothing is unpickled. The fingerprint covers
everything that affects a prediction: weights, both configs, class order and calibration.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import safetensors
import safetensors.torch
import torch

from audiocnn import __version__, storage
from audiocnn.config import (
    FeatureConfig,
    content_fingerprint,
    from_json,
    to_json,
    unknown_error,
)
from audiocnn.errors import FormatError, MismatchError
from audiocnn.model.backbone import Backbone
from audiocnn.model.calibration import Calibration
from audiocnn.model.registry import build, model_config, model_json

FORMAT = "audiocnn.bundle/1"
_DECIDES = (
    "model",
    "feature",
    "feature_fingerprint",
    "classes",
    "calibration",
    "weights_sha256",
)
"""Fields of `bundle.json` that affect predictions; the fingerprint is computed from them."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A model in evaluation mode, with its front end, classes and calibration."""

    model: Backbone
    feature: FeatureConfig
    classes: tuple[str, ...]
    calibration: Calibration = field(default_factory=Calibration)
    metrics: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    """How the model was trained: features, recipe, options, folds, versions."""
    fingerprint: str = ""

    def write(self, uri: str) -> "Bundle":
        """Write the bundle; return it with its fingerprint. Raises StorageError.

        `bundle.json` is written last.
        """
        weights = safetensors.torch.save(
            {name: t.detach().cpu().contiguous() for name, t in self.model.state_dict().items()}
        )
        storage.write_bytes(storage.join(uri, "model.safetensors"), weights)
        plain: dict[str, Any] = {
            "format": FORMAT,
            "written_by": __version__,
            "fingerprint": "",
            "model": model_json(self.model.config),
            "feature": to_json(self.feature),
            "feature_fingerprint": self.feature.fingerprint,
            "classes": list(self.classes),
            "calibration": self.calibration.to_json(),
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "metrics": self.metrics,
            "provenance": self.provenance,
        }
        plain["fingerprint"] = _fingerprint(plain)
        storage.write_json(storage.join(uri, "bundle.json"), plain)
        return Bundle(**{**vars(self), "fingerprint": plain["fingerprint"]})

    @staticmethod
    def read(uri: str, fingerprint: str | None = None) -> "Bundle":
        """Read the bundle at a URI. Raises StorageError, FormatError, ConfigError.

        With a `fingerprint`, raises MismatchError if the bundle there has another one.
        """
        uri = storage.absolute(uri)
        plain = read_summary(uri)
        if fingerprint not in (None, plain["fingerprint"]):
            raise MismatchError(
                f"{uri}: it is now bundle {plain['fingerprint']}, but the command started with "
                f"{fingerprint}: restore that bundle, or start again"
            )
        weights = storage.read_bytes(storage.join(uri, "model.safetensors"))
        if hashlib.sha256(weights).hexdigest() != plain["weights_sha256"]:
            raise FormatError(f"{uri}: model.safetensors does not match bundle.json")
        try:
            feature = from_json(FeatureConfig, plain["feature"])
            classes = tuple(plain["classes"])
            config = model_config(plain["model"])
            model = build(config, feature.n_mels, len(classes))
            model.load_state_dict(safetensors.torch.load(weights))
        except (TypeError, AttributeError, RuntimeError, safetensors.SafetensorError) as error:
            first = str(error).splitlines()[0]  # torch's message lists every tensor
            raise FormatError(f"{uri}: a damaged bundle ({first})") from error
        for name, values in model.state_dict().items():
            if not bool(torch.isfinite(values).all()):
                raise FormatError(f"{uri}: {name} has NaN or infinite weights; train again")
        if plain["feature_fingerprint"] != feature.fingerprint:
            raise FormatError(f"{uri}: made with another version of the front end; train again")
        return Bundle(
            model=model.eval(),
            feature=feature,
            classes=classes,
            calibration=_calibration(plain["calibration"]),
            metrics=plain["metrics"],
            provenance=plain["provenance"],
            fingerprint=plain["fingerprint"],
        )


def read_summary(uri: str) -> dict[str, Any]:
    """Read `bundle.json` of a bundle, without the weights. Raises StorageError, FormatError."""
    path = storage.join(uri, "bundle.json")
    plain = storage.read_format(path, FORMAT, "bundle")
    needed = ("fingerprint", *_DECIDES, "metrics", "provenance")
    missing = [name for name in needed if name not in plain]
    if missing:
        raise FormatError(f"{path}: a damaged bundle (no {', '.join(missing)})")
    if _fingerprint(plain) != plain["fingerprint"]:
        raise FormatError(f"{path}: the bundle was changed: its fingerprint does not match")
    return plain


def _calibration(plain: dict[str, Any]) -> Calibration:
    """Return the calibration of a bundle. Raises FormatError for a part that is not known here."""
    unknown = ", ".join(sorted(plain.keys() - Calibration().to_json().keys()))
    if unknown:
        raise unknown_error(plain, f"the calibration has {unknown}")
    return Calibration.from_json(plain)


def recalibrate(uri: str, calibration: Calibration) -> str:
    """Replace the calibration of the bundle at a URI; return its new fingerprint."""
    plain = read_summary(uri)
    plain["calibration"] = calibration.to_json()
    plain["fingerprint"] = _fingerprint(plain)
    storage.write_json(storage.join(uri, "bundle.json"), plain)
    return str(plain["fingerprint"])


def _fingerprint(plain: dict[str, Any]) -> str:
    return content_fingerprint({name: plain[name] for name in _DECIDES})
