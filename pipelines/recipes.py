"""Complete configurations by name. The command line can change each of their fields."""

from dataclasses import dataclass

from audiocnn.config import AugmentConfig, FeatureConfig, ModelConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Configuration of the front end, the model and the training."""

    feature: FeatureConfig
    model: ModelConfig
    training: TrainConfig


def esc50() -> Recipe:
    """Return the tutorial's recipe, for a GPU: 22.05 kHz, 128 mels, 21 M parameters, 100 epochs."""
    return Recipe(
        feature=FeatureConfig(),
        model=ModelConfig(),
        training=TrainConfig(
            epochs=100,
            batch_size=32,
            max_lr=2e-3,
            precision="auto",
            augment=AugmentConfig(mixup_alpha=0.2, mixup_probability=0.3),
        ),
    )


def esc10() -> Recipe:
    """Return a recipe for two CPU cores: 0.7 M parameters, 312 epochs.

    With 320 clips, these epochs are 100,000 passes of a clip.
    """
    return Recipe(
        feature=FeatureConfig(hop_length=256, pad="repeat", floor_db=-50.0),
        model=ModelConfig(stages=(2, 2, 2, 2), channels=16, pooling="mean+max", dropout=0.2),
        training=TrainConfig(
            epochs=312,
            batch_size=32,
            max_lr=5e-3,
            weight_decay=0.05,
            ema_decay=0.995,
            precision="auto",
            augment=AugmentConfig(
                mixup_alpha=0.3,
                time_shift=1.0,
                stretch=0.3,
                filter_db=6.0,
                time_masks=1,
                time_mask_frames=48,
                band_masks=1,
                band_mask_bands=16,
            ),
        ),
    )


def demo() -> Recipe:
    """Return the recipe for the synthetic corpus. It trains in a minute on two CPU cores."""
    return Recipe(
        feature=FeatureConfig(
            sample_rate=16_000,
            window_s=2.0,
            hop_s=2.0,
            hop_length=256,
            n_mels=64,
            floor_db=-50.0,
        ),
        model=ModelConfig(stages=(1, 1, 1, 1), channels=16, dropout=0.2),
        training=TrainConfig(
            epochs=16,
            batch_size=32,
            max_lr=4e-3,
            augment=AugmentConfig(
                time_masks=1, time_mask_frames=16, band_masks=1, band_mask_bands=6
            ),
        ),
    )


RECIPES = {"demo": demo, "esc10": esc10, "esc50": esc50}
