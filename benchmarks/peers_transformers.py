"""The audio-classification pipeline of Transformers, with our model.

Its users write `pipeline("audio-classification", ...)(dataset, batch_size, num_workers)`. Soundfile
reads the recordings, because the pipeline's own reader starts ffmpeg for each of them. The
pipeline's `preprocess` resamples with torchaudio and calls a feature extractor. It runs in the
processes of a DataLoader, one per core. The forward pass runs in the main process, on all cores.
The extractor is built like that of the Audio Spectrogram Transformer: it makes one clip of a
recording, cut or padded to the size that the model expects.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import transformers  # type: ignore[import-not-found]  # installed in its own environment
from transformers.modeling_outputs import (  # type: ignore[import-not-found]
    SequenceClassifierOutput,
)

from audiocnn.model.bundle import Bundle
from benchmarks.contenders import FEATURE, Job, torchaudio_logmel
from benchmarks.labellers import BATCH
from benchmarks.progress import Finished


class _Config(transformers.PreTrainedConfig):  # type: ignore[misc]
    model_type = "audiocnn"


class _Model(transformers.PreTrainedModel):  # type: ignore[misc]
    config_class = _Config

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(_Config(id2label=dict(enumerate(bundle.classes))))
        self.inner = bundle.model

    def forward(self, input_values: torch.Tensor) -> SequenceClassifierOutput:
        return SequenceClassifierOutput(logits=self.inner(input_values))


class _Extractor(transformers.SequenceFeatureExtractor):  # type: ignore[misc]
    model_input_names = ["input_values"]  # noqa: RUF012  # as in Transformers

    def __init__(self) -> None:
        super().__init__(
            feature_size=FEATURE.n_mels, sampling_rate=FEATURE.sample_rate, padding_value=0.0
        )

    def __call__(self, samples: np.ndarray, **_: Any) -> transformers.BatchFeature:
        size = FEATURE.window_samples
        clip = np.pad(samples[:size], (0, max(0, size - len(samples))))
        logmel = torchaudio_logmel(torch.from_numpy(clip)[None])
        return transformers.BatchFeature({"input_values": logmel})


class _Recordings(torch.utils.data.Dataset[dict[str, Any]]):
    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        samples, rate = soundfile.read(self.paths[index], dtype="float32", always_2d=True)
        return {"raw": samples.mean(axis=1), "sampling_rate": rate}


def main() -> None:
    """Run the contender `hf_pipeline`; the command line is NAME JOB.json."""
    job = Job.read(Path(sys.argv[2]))
    # The pipeline logs an error, because our class is not on its list of models.
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    torch.set_num_threads(job.workers)
    classify = transformers.pipeline(
        "audio-classification",
        model=_Model(Bundle.read(job.bundle)).eval(),
        feature_extractor=_Extractor(),
        device="cpu",
    )
    finished = Finished(job.notes, "main")
    kept = []
    for answer in classify(_Recordings(job.paths), batch_size=BATCH, num_workers=job.workers):
        kept.append(answer)
        if len(kept) % BATCH == 0 or len(kept) == len(job.paths):
            finished((len(kept) - 1) % BATCH + 1)
