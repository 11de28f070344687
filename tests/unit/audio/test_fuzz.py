"""Hundreds of mutated recordings are read by the front end's process; none may end it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from audiocnn.config import AudioLimits
from audiocnn.corpus.clips import Clip
from audiocnn.features.extractor import Extractor
from audiocnn.features.part import item_of
from helpers.common import SHARED, SMALL
from helpers.hostile import HOSTILE, TOLERATED, sound

LIMITS = AudioLimits(max_duration_s=600)


def seeds() -> list[bytes]:
    """Return a sound in each container, odd and hostile files, and real recordings if available."""
    found = [sound(container) for container in ("wav", "flac", "ogg", "mp3")]
    found += [data for data in TOLERATED.values() if len(data) < 1 << 18]
    found += [data for data, _ in HOSTILE.values() if 40 < len(data) < 1 << 18]
    for pattern in ("esc10/*/*.ogg", "esc50-mini/audio/*.wav"):
        found += [path.read_bytes() for path in sorted(SHARED.glob(pattern))[::60]]
    return found


SEEDS = seeds()
PLACE = st.floats(0, 1)
EXTREMES = st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0"])
MUTATIONS = st.one_of(
    st.tuples(st.just("set"), PLACE, st.binary(min_size=1, max_size=4)),
    st.tuples(st.just("header"), st.integers(0, 200), st.one_of(EXTREMES, st.binary(max_size=8))),
    st.tuples(st.just("cut"), PLACE, st.just(b"")),
    st.tuples(st.just("insert"), PLACE, st.binary(min_size=1, max_size=64)),
    st.tuples(st.just("repeat"), PLACE, st.just(b"")),
)


def mutated(data: bytes, mutations: list[tuple[str, float, bytes]]) -> bytes:
    for kind, place, value in mutations:
        at = int(place) if kind == "header" else int(place * len(data))
        if kind in ("set", "header"):
            data = data[:at] + value + data[at + len(value) :]
        elif kind == "cut":
            data = data[:at]
        elif kind == "insert":
            data = data[:at] + value + data[at:]
        else:
            data = data[:at] + data[at // 2 :]
    return data


@pytest.fixture(scope="module")
def extractor() -> Iterator[Extractor]:
    with Extractor(SMALL, LIMITS, silence_s=30.0) as extractor:
        yield extractor


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "mutated"


@settings(
    max_examples=600,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, len(SEEDS) - 1), mutations=st.lists(MUTATIONS, min_size=1, max_size=4))
def test_a_mutated_recording_gives_windows_or_a_reason(
    extractor: Extractor, path: Path, seed: int, mutations: list[tuple[str, float, bytes]]
) -> None:
    path.write_bytes(mutated(SEEDS[seed], mutations))
    part = path.with_name("part.parquet")
    item = item_of(Clip(clip_id="mutated", uri=str(path), label="a", fold=1))
    ledger = extractor.part([item], str(part))
    if ledger.ingested:
        logmels = pq.read_table(part)["logmel"].combine_chunks().to_numpy_ndarray()
        assert len(logmels) == sum(ledger.windows.values()) > 0
        assert np.isfinite(logmels).all()
    else:
        reason = ledger.failed["mutated"][1]["reason"]
        assert not reason.startswith(("crashed", "unreadable")), (
            f"{reason}: {SEEDS[seed][:16]!r} {mutations}"
        )
