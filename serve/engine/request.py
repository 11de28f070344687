"""A request's options, checked against the bundle that answers it."""

from dataclasses import replace

from audiocnn.config import FeatureConfig
from audiocnn.errors import ConfigError
from audiocnn.model.bundle import Bundle
from serve.engine.model import Inspect
from serve.options import PredictRequest
from serve.problems import Problem

_LONGEST_WINDOW = 10
"""Longest window, in lengths of the trained window: a window is computed as a whole."""


def windowing(request: PredictRequest, feature: FeatureConfig) -> FeatureConfig:
    """Return a bundle's feature config with the request's window and hop. Raises Problem."""
    if request.window_s is None and request.hop_s is None:
        return feature
    window_s = request.window_s or feature.window_s
    if window_s > _LONGEST_WINDOW * feature.window_s:
        raise Problem(
            "option",
            f"window_s {window_s:g}: the limit is {_LONGEST_WINDOW} times the trained length, "
            f"{feature.window_s:g} s",
            more={"field": "window_s"},
        )
    hop_s = request.hop_s or min(feature.hop_s, window_s)
    try:
        return replace(
            feature,
            window_s=window_s,
            hop_s=hop_s,
            min_tail_s=min(feature.min_tail_s, window_s),
        )
    except ConfigError as error:
        field = "hop_s" if hop_s > window_s else "window_s"
        raise Problem("option", str(error), more={"field": field}) from error


def inspection(request: PredictRequest, bundle: Bundle) -> Inspect:
    """Return what a request wants to see of one window. Raises Problem."""
    maps = bundle.model.map_names
    layer, evidence = None, None
    if request.maps == "channels":
        layer = request.layer or bundle.model.layers[0]
        if layer not in maps:
            raise Problem(
                "option",
                f"layer {layer!r}: the layers are {', '.join(maps)}",
                more={"field": "layer"},
            )
    if request.explain is not None:
        if request.explain not in bundle.classes:
            raise Problem(
                "option", f"explain {request.explain!r}: no such class", more={"field": "explain"}
            )
        evidence = bundle.classes.index(request.explain)
    return Inspect(
        maps=request.maps,
        layer=layer,
        channels=request.channels,
        evidence=evidence,
        sound=request.sound,
        logmel=request.spectrogram,
    )
