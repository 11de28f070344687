import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from audiocnn.config import AugmentConfig, ModelConfig, TrainConfig
from audiocnn.errors import TrainingError
from audiocnn.model.resnet import AudioCNN
from audiocnn.training import augment as augmentation
from audiocnn.training.batches import Batch, MemoryBatches
from audiocnn.training.ema import MovingAverage
from audiocnn.training.trainer import Trainer, one_cycle

BANDS, FRAMES, CLASSES = 16, 40, 3
QUIET = AugmentConfig(mixup_probability=0, time_shift=0, time_masks=0, band_masks=0)


def windows(count: int = 48) -> Batch:
    """Return log-mels [count, BANDS, FRAMES] and labels; a label is the index of the loud third."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % CLASSES
    logmel = torch.randn(count, BANDS, FRAMES, generator=generator)
    for index, label in enumerate(labels.tolist()):
        logmel[index, label * 5 : label * 5 + 5] += 4
    return logmel.half(), labels


def trainer(**options: object) -> Trainer:
    config = TrainConfig(**{"epochs": 4, "batch_size": 12, **options})  # type: ignore[arg-type]
    torch.manual_seed(config.seed)
    model = AudioCNN(ModelConfig(stages=(1, 1, 1, 1), channels=4), BANDS, CLASSES)
    return Trainer(model, config, MemoryBatches(*windows(), config))


def evaluation_batches() -> Iterator[Batch]:
    logmel, labels = windows()
    yield logmel.float(), labels


def weights(made: Trainer) -> torch.Tensor:
    return torch.cat([v.flatten().double() for v in made.average.state_dict().values()])


def run(made: Trainer, first: int = 0) -> Trainer:
    for epoch in range(first, made.config.epochs):
        made.train_epoch(epoch)
    return made


def test_it_learns_what_there_is_to_learn() -> None:
    made = trainer(epochs=12, max_lr=1e-2, augment=QUIET)
    first = made.train_epoch(0)
    before = made.evaluate(evaluation_batches())
    run(made, 1)
    after = made.evaluate(evaluation_batches())
    assert after.accuracy > 0.95 > before.accuracy
    assert after.loss < first
    assert after.confusion.sum() == 48
    assert np.trace(after.confusion) == round(after.accuracy * 48)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_same_seed_gives_the_same_weights_and_another_one_others(ema: float) -> None:
    assert torch.equal(weights(run(trainer(ema_decay=ema))), weights(run(trainer(ema_decay=ema))))
    other = weights(run(trainer(ema_decay=ema, seed=1)))
    assert not torch.equal(weights(run(trainer(ema_decay=ema))), other)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_going_on_from_a_state_equals_never_having_stopped(ema: float) -> None:
    whole = run(trainer(ema_decay=ema))
    first = trainer(ema_decay=ema)
    first.train_epoch(0)
    first.train_epoch(1)
    second = trainer(ema_decay=ema)
    torch.manual_seed(12345)  # other code used the generator in between
    second.load_state_dict(first.state_dict())
    assert torch.equal(weights(run(second, 2)), weights(whole))


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_going_on_from_the_middle_of_an_epoch_equals_never_having_stopped(ema: float) -> None:
    whole = trainer(ema_decay=ema)
    losses = [whole.train_epoch(epoch) for epoch in range(4)]
    states = {}

    def keep(step: int, total: torch.Tensor) -> None:
        states[step] = (copy.deepcopy(first.state_dict()), float(total))

    first = trainer(ema_decay=ema)
    first.train_epoch(0)
    first.train_epoch(1, keep)
    state, total = states[2]
    second = trainer(ema_decay=ema)
    torch.rand(7)  # other code used the generator in between
    second.load_state_dict(state)
    assert second.train_epoch(1, first=2, losses=total) == pytest.approx(losses[1], abs=1e-6)
    assert torch.equal(weights(run(second, 2)), weights(whole))


def test_ranks_with_unlike_shares_make_the_step_of_the_whole_batch() -> None:
    """DDP's mean gradient of ranks with 5, 4 and 3 windows equals that of one rank with 12."""
    options = {"augment": QUIET, "batch_size": 12}
    alone = trainer(**options)
    alone.model.eval()  # in training, batch norm uses one rank's windows only
    logmel, labels = windows(12)
    alone._train_step(logmel.float(), labels)
    expected = [p.grad.clone() for p in alone.model.parameters() if p.grad is not None]
    sums = [torch.zeros_like(g) for g in expected]
    for chosen in (slice(0, 5), slice(5, 9), slice(9, 12)):
        ranked = trainer(**options)
        ranked.world = 3
        ranked.model.eval()
        ranked._train_step(logmel[chosen].float(), labels[chosen])
        for total, parameter in zip(sums, ranked.model.parameters(), strict=True):
            assert parameter.grad is not None
            total += parameter.grad / 3
    for total, gradient in zip(sums, expected, strict=True):
        assert torch.allclose(total, gradient, atol=1e-6)


@pytest.mark.parametrize("steps", range(1, 41))
def test_a_warm_up_may_have_any_number_of_steps(steps: int) -> None:
    for warmup in {0.01, 0.1, 0.25, 0.3, 0.5, 0.9, 1 / (steps + 1), 2 / (steps + 1)} - {1.0}:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
        schedule = one_cycle(optimizer, TrainConfig(warmup=warmup, max_lr=0.5), steps)
        rates = []
        for _ in range(steps):
            rates.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
        assert all(0 < rate <= 0.5 for rate in rates)
        if warmup * (steps + 1) <= 1:  # the first step is the peak
            assert rates[0] == max(rates) > 0.25


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    made = trainer(max_lr=1e30)
    with pytest.raises(TrainingError, match=r"the loss is .* in epoch \d: lower --max-lr"):
        run(made)


def test_bfloat16_learns_too() -> None:
    made = trainer(epochs=8, max_lr=1e-2, augment=QUIET, precision="bfloat16")
    before = made.train_epoch(0)
    run(made, 1)
    assert made.evaluate(evaluation_batches()).loss < before
    assert made.model.fc.weight.dtype == torch.float32


def test_auto_is_bfloat16_where_the_cpu_computes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for able in ({}, {"avx512_bf16": True}, {"avx512_bf16": False, "amx_bf16": True}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able)
        assert trainer(precision="auto").bfloat16 == any(able.values())
        assert not trainer(precision="float32").bfloat16
        assert trainer(precision="bfloat16").bfloat16


def test_the_moving_average_is_never_far_behind_the_last_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % CLASSES
    points = torch.randn(600, 8, generator=generator) + 2.0 * torch.eye(8)[labels]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES))
    average, kept = MovingAverage(model, 0.995), {}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(1, 3_001):
        chosen = torch.randint(0, 300, (16,), generator=generator)
        loss = torch.nn.functional.cross_entropy(model.train()(points[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(model)
        if step in (10, 20, 40, 78, 150, 300, 600, 1_000, 1_800, 3_000):
            kept[step] = [
                float((one.eval()(points[300:]).argmax(1) == labels[300:]).float().mean())
                for one in (average.model, model)
            ]
    assert all(averaged > last - 0.05 for averaged, last in kept.values()), kept
    assert kept[3_000][1] > 0.7  # the last weights have learnt the classes


def test_a_checkpoint_from_before_updates_were_counted_goes_on() -> None:
    whole = run(trainer(ema_decay=0.9))
    first = trainer(ema_decay=0.9)
    first.train_epoch(0)
    state = first.state_dict()
    state["ema"] = {"model": state["ema"]["model"], "begun": True}
    second = trainer(ema_decay=0.9)
    second.load_state_dict(state)
    assert torch.equal(weights(run(second, 1)), weights(whole))


def test_how_well_the_kept_model_fits_is_told_beside_its_training() -> None:
    made = run(trainer(epochs=12, max_lr=1e-2, ema_decay=0.9, augment=QUIET))
    assert made.fit() == {
        "training": pytest.approx(1, abs=0.05),
        "kept": pytest.approx(1, abs=0.05),
    }
    assert made.ema is not None
    made.ema.model.load_state_dict(trainer().model.state_dict())  # as if it had never been updated
    fit = made.fit()
    assert fit["kept"] < fit["training"] / 2
    before = copy.deepcopy(made.model.state_dict())
    made.fit()
    assert all(torch.equal(before[k], v) for k, v in made.model.state_dict().items())


def test_the_moving_average_is_what_is_kept() -> None:
    made = run(trainer(ema_decay=0.9))
    assert made.average is not made.model
    assert not torch.equal(made.average.fc.weight, made.model.fc.weight)
    plain = run(trainer())
    assert plain.average is plain.model


def test_the_learning_rate_rises_and_ends_near_nothing() -> None:
    made = trainer(max_lr=1e-2)
    rates = []
    for epoch in range(4):
        made.train_epoch(epoch)
        rates.append(made.schedule.get_last_lr()[0])
    assert max(rates) > 5e-3
    assert rates[-1] < 1e-4


def test_augmentation_keeps_shapes_and_is_off_at_zero() -> None:
    logmel = torch.randn(6, BANDS, FRAMES)
    mean = torch.zeros(BANDS)
    everything = AugmentConfig(filter_db=6, time_mask_frames=10, band_mask_bands=4)
    assert augmentation.augment(logmel, mean, everything).shape == logmel.shape
    assert not torch.equal(augmentation.augment(logmel, mean, everything), logmel)
    assert torch.equal(augmentation.augment(logmel, mean, QUIET), logmel)


def test_masks_are_filled_with_each_bands_mean() -> None:
    mean = torch.arange(BANDS).float() - 40
    logmel = torch.full((8, BANDS, FRAMES), 100.0)
    masked = augmentation.spec_augment(logmel, mean, AugmentConfig(band_masks=0))
    filled = masked != 100.0
    assert filled.any()
    expected = mean[None, :, None].expand_as(masked)
    assert torch.allclose(masked[filled], expected[filled], atol=1e-4)
    assert len({tuple(clip[0].tolist()) for clip in filled}) > 1  # each clip has its own masks


def test_time_shift_rolls_each_clip_by_its_own() -> None:
    logmel = torch.arange(FRAMES).float().expand(8, BANDS, FRAMES)
    shifted = augmentation.time_shift(logmel, 1.0)
    assert torch.equal(shifted.sort(dim=2).values, logmel)
    assert len({int(clip[0, 0]) for clip in shifted}) > 1


def test_a_random_filter_is_smooth_over_bands_and_constant_in_time() -> None:
    curve = augmentation.random_filter(torch.zeros(32, BANDS, FRAMES), 6.0)
    assert curve.shape == (32, BANDS, 1)
    assert 3 < curve.abs().max() <= 6
    assert curve.diff(dim=1).abs().max() < 12 / (BANDS / 4)
    assert curve.std(dim=0).min() > 1  # each clip has its own filter


def test_a_stretch_moves_what_is_there_and_adds_nothing() -> None:
    torch.manual_seed(0)
    logmel = torch.zeros(32, BANDS, FRAMES)
    logmel[:, 8, 20] = 1.0
    stretched = augmentation.random_stretch(logmel, 0.3)
    assert stretched.shape == logmel.shape
    assert stretched.min() >= 0
    assert stretched.max() <= 1
    places = {int(clip.argmax()) for clip in stretched}
    assert len(places) > 8
    assert torch.allclose(augmentation.random_stretch(logmel, 0.0), logmel, atol=1e-4)


def test_mixup_mixes_targets_as_it_mixes_sounds() -> None:
    logmel, labels = windows(12)
    always = AugmentConfig(mixup_probability=1.0, mixup_alpha=1.0)
    constant = labels.float()[:, None, None].expand(-1, BANDS, FRAMES)
    mixed, targets = augmentation.mixup(constant, labels, CLASSES, always)
    assert torch.allclose(targets.sum(1), torch.ones(12))
    assert torch.allclose(mixed[:, 0, 0], targets @ torch.arange(CLASSES).float(), atol=1e-5)
    same, one_hot = augmentation.mixup(logmel, labels, CLASSES, QUIET)
    assert torch.equal(same, logmel)
    assert torch.equal(one_hot.argmax(1), labels)
