"""Three processes train together and resume together, with DDP but without Ray."""

import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from audiocnn.config import ModelConfig, TrainConfig
from audiocnn.model.resnet import AudioCNN
from audiocnn.training.batches import MemoryBatches
from audiocnn.training.trainer import Trainer, from_all_ranks
from pipelines.train.worker import parallel

RANKS, BANDS, CLASSES = 3, 16, 3
CONFIG = TrainConfig(epochs=2, batch_size=12)


def trainer(rank: int) -> Trainer:
    generator = torch.Generator().manual_seed(0)
    logmel, labels = torch.randn(48, BANDS, 40, generator=generator), torch.arange(48) % CLASSES
    torch.manual_seed(0)
    model = AudioCNN(ModelConfig(stages=(1, 1, 1, 1), channels=4), BANDS, CLASSES)
    batches = MemoryBatches(logmel, labels, CONFIG, rank=rank, world=RANKS)
    return Trainer(model, CONFIG, batches, rank=rank, world=RANKS, wrap=parallel)


def train(rank: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=RANKS)
    whole, first, second = (trainer(rank) for _ in range(3))
    whole.train_epoch(0)
    whole.train_epoch(1)
    first.train_epoch(0)
    second.load_state_dict(first.state_dict())
    second.train_epoch(1)
    buffers = torch.cat([value.flatten().double() for value in whole.saved_model().buffers()])
    said = from_all_ranks([(rank, float(buffers.sum()))] * rank)  # rank 0 adds nothing
    if rank == 0:
        torch.save([whole.model.state_dict(), second.model.state_dict(), said], f"{folder}/weights")
    dist.destroy_process_group()


def test_three_ranks_that_go_on_sum_as_if_they_had_never_stopped(tmp_path: Path) -> None:
    mp.spawn(train, (str(tmp_path),), nprocs=RANKS)
    whole, resumed, said = torch.load(tmp_path / "weights", weights_only=True)
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    assert [rank for rank, _ in said] == [1, 2, 2]
    assert len({statistics for _, statistics in said}) == 1  # equal in the kept models
