"""Code for GPUs that can be tested without one: the number of models, full memory and TF32."""

from types import SimpleNamespace
from typing import Any

import pytest
import ray.train
import torch
from ray.exceptions import RayTaskError
from ray.train import WorkerGroupError

from audiocnn.config import TrainConfig
from audiocnn.errors import ConfigError
from audiocnn.training.trainer import allow_tf32
from pipelines.label.gpu_models import GpuModel, how_many
from pipelines.options import Label, Train
from pipelines.runtime.errors import gpu_memory, user_errors
from pipelines.runtime.session import Cluster
from pipelines.train import worker as train_worker

FULL = torch.cuda.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB of "
    "which 1.06 GiB is free. Including non-PyTorch memory, this process has 6.72 GiB in use."
)
"""The error that torch 2 raises."""


def cluster(gpus: int, most: int = 0, *, grows: bool = False) -> Cluster:
    return Cluster(cpus=4, gpus=gpus, most_cpus=4, most_gpus=max(gpus, most), grows=grows)


def labelling(share: float, models: int | None = None) -> Label:
    return Label(bucket="b", bundle="b", to="l", gpu=True, gpus_per_model=share, models=models)


def test_as_many_models_are_asked_for_as_fit() -> None:
    assert how_many(labelling(0.4), cluster(2)) == 4
    assert how_many(labelling(0.5), cluster(1, most=8)) == 2
    assert how_many(labelling(0.4, models=7), cluster(2, most=4)) == 7
    assert how_many(labelling(1), cluster(0, grows=True)) == 1
    with pytest.raises(ConfigError, match=r"5 models of 0.4 GPU each.*2 GPUs at most.*room for 4"):
        how_many(labelling(0.4, models=5), cluster(2))
    with pytest.raises(
        ConfigError, match=r"1 models of 1 GPU each.*0 GPUs at most, with room for 0"
    ):
        how_many(labelling(1), cluster(0))


def test_a_full_gpu_in_training_is_one_line_that_names_the_flags(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise FULL

    context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    monkeypatch.setattr(train_worker, "_trainer", full)
    job: Any = SimpleNamespace(options=Train(features="f", to="b"))
    with pytest.raises(ConfigError) as caught:
        train_worker.train_rank({"job": job, "channel": None})
    line = str(caught.value)
    assert line.startswith("CUDA out of memory. Tried to allocate 2.00 GiB: lower --batch-size")
    assert "\n" not in line
    for flag in ("--batch-size", "--data stream", "--workers"):
        assert flag in line


def test_of_workers_that_fail_the_one_with_the_full_gpu_is_heard() -> None:
    lost = RuntimeError("NCCL: Connection closed by peer")
    with pytest.raises(ConfigError, match="the mend"), user_errors():
        raise WorkerGroupError("two failed", {0: lost, 1: ConfigError("the mend")})


def test_a_full_gpu_in_labelling_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def score(self, _: object) -> None:
            raise FULL

    model = GpuModel(labelling(0.5), "f00d", {})
    monkeypatch.setattr(model, "_model", Full())
    with pytest.raises(
        ConfigError, match=r"Tried to allocate 2.00 GiB: .*--gpus-per-model"
    ) as caught:
        model.score(None)  # type: ignore[arg-type]
    # Ray wraps the error in the worker that called the model, and again in the job.
    asked = RayTaskError("score", "a traceback", caught.value).as_instanceof_cause()
    with pytest.raises(ConfigError) as told, user_errors():
        raise RayTaskError("map", "a traceback\nof lines", asked).as_instanceof_cause()
    assert str(told.value) == str(caught.value)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (str(FULL), "CUDA out of memory. Tried to allocate 2.00 GiB"),
        ("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some "
         "other API call.", "CUDA error: out of memory"),
        ("CUDA driver error: out of memory", "CUDA driver error: out of memory"),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
         "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED\nYou can try to "
         "repro this exception using the following code snippet.\nimport torch",
         "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        ("cuFFT error: CUFFT_ALLOC_FAILED", "cuFFT error: CUFFT_ALLOC_FAILED"),
        ("NCCL error in: NCCLUtils.cpp:77, unhandled cuda error\nncclUnhandledCudaError: Call to "
         "CUDA function failed.\nLast error:\nCuda failure 2 'out of memory'",
         "Cuda failure 2 'out of memory'"),
    ],
)  # fmt: skip
def test_a_full_gpu_is_known_whoever_wanted_more_of_it(said: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught, gpu_memory("the mend"):
        raise RuntimeError(said)
    assert str(caught.value) == f"{told}: the mend"


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: an illegal access was encountered",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(handle)`",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
        "NCCL error: Connection closed by peer",
    ],
)
def test_other_errors_of_a_gpu_stay_what_they_are(said: str) -> None:
    with pytest.raises(RuntimeError) as caught, gpu_memory("the mend"):
        raise RuntimeError(said)
    assert str(caught.value) == said


def test_float32_by_name_is_no_tf32() -> None:
    before = torch.backends.cudnn.allow_tf32
    try:
        for precision, allowed in [("float32", False), ("auto", True), ("bfloat16", True)]:
            allow_tf32(TrainConfig(precision=precision))  # type: ignore[arg-type]
            assert torch.backends.cudnn.allow_tf32 == allowed
    finally:
        torch.backends.cudnn.allow_tf32 = before
