"""A replica starts while its URI has another or an incomplete bundle: it uses the served one."""

import asyncio
import shutil
from pathlib import Path

import pytest
import ray

from audiocnn import storage
from audiocnn.errors import AudioCNNError, MismatchError
from audiocnn.model.bundle import Bundle
from audiocnn.model.predictor import Predictor
from helpers.common import make_bundle
from helpers.hostile import wav
from helpers.small_labels import label_bucket
from serve.deploy import run, served_bundles
from serve.deploy.replicas import Endpoint, ModelReplica
from serve.options import PredictRequest, Serve


@pytest.fixture(autouse=True)
def forgotten(ray_cluster: None) -> None:
    served_bundles.forget()


@ray.remote(num_cpus=0)
def read_elsewhere(fingerprint: str) -> str | None:
    """Return the fingerprint of the bundle that another process of the cluster reads."""
    bundle = served_bundles.read(fingerprint)
    return None if bundle is None else bundle.fingerprint


def overwrite(uri: str, bundle: Path) -> None:
    for name in ("bundle.json", "model.safetensors"):
        storage.write_bytes(storage.join(uri, name), (bundle / name).read_bytes())


@pytest.mark.parametrize("place", ["disk", "s3"])
@pytest.mark.parametrize("then", ["another", "half", "gone"])
def test_a_replacement_is_of_the_bundle_that_is_served(
    tmp_path: Path, bucket: str, place: str, then: str
) -> None:
    make_bundle(tmp_path / "first")
    make_bundle(tmp_path / "second", seed=1)
    uri = f"{bucket}/model" if place == "s3" else str(tmp_path / "served")
    overwrite(uri, tmp_path / "first")
    fingerprint = served_bundles.keep(uri)
    if then == "another":
        overwrite(uri, tmp_path / "second")
    elif then == "half":
        weights = (tmp_path / "first" / "model.safetensors").read_bytes()
        storage.write_bytes(storage.join(uri, "model.safetensors"), weights[:-1])
    else:
        for name in ("bundle.json", "model.safetensors"):
            storage.remove(storage.join(uri, name))
    asked = {"bundle": uri, "fingerprint": fingerprint}
    endpoint, model = Endpoint(Serve(bundle=uri), ()), ModelReplica(Serve(bundle=uri))

    async def start() -> str:
        await endpoint.reconfigure(asked)
        await model.reconfigure(asked)
        await model.check_health()
        answer = await endpoint.current.service().predict(wav(), PredictRequest())
        return str(answer["bundle"])

    assert asyncio.run(start()) == fingerprint
    assert ray.get(read_elsewhere.remote(fingerprint)) == fingerprint
    assert list(model._models) == [fingerprint]


def test_the_one_beside_is_kept_too(tmp_path: Path) -> None:
    served, beside = str(tmp_path / "served"), str(tmp_path / "beside")
    make_bundle(tmp_path / "served")
    make_bundle(tmp_path / "beside", seed=1)
    asked = {
        "bundle": served,
        "fingerprint": served_bundles.keep(served),
        "beside": served_bundles.keep(beside),
    }
    shutil.rmtree(served)
    shutil.rmtree(beside)
    endpoint = Endpoint(Serve(bundle=served, beside=beside), ())
    asyncio.run(endpoint.reconfigure(asked))
    assert endpoint.beside is not None
    assert endpoint.beside.service().bundle.fingerprint == asked["beside"]


def test_without_a_fingerprint_it_is_what_lies_at_the_uri(tmp_path: Path) -> None:
    """`serve deploy` gives no fingerprint: each bundle has its own URI there."""
    uri = str(tmp_path / "served")
    served_bundles.keep(str(make_at(tmp_path / "served", 0)))
    second = Bundle.read(str(make_at(tmp_path / "served", 1))).fingerprint
    endpoint = Endpoint(Serve(bundle=uri), ())
    asyncio.run(endpoint.reconfigure({"bundle": uri}))
    assert endpoint.current.service().bundle.fingerprint == second
    with pytest.raises(MismatchError, match="its fingerprint is"):
        asyncio.run(
            Endpoint(Serve(bundle=uri), ()).reconfigure({"bundle": uri, "fingerprint": "other"})
        )


def make_at(folder: Path, seed: int) -> Path:
    make_bundle(folder, seed)
    return folder


def test_what_is_served_and_what_was_before_is_kept_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_bundles, "_PIECE", 10_000)  # so that weights take several messages
    found = [served_bundles.keep(str(make_at(tmp_path / str(seed), seed))) for seed in range(4)]
    assert len(set(found)) == 4
    assert served_bundles.served() is None
    served_bundles.settle({"fingerprint": found[1], "beside": found[2]}, {"fingerprint": found[0]})
    assert served_bundles.served() == {"fingerprint": found[1], "beside": found[2]}
    read = [served_bundles.read(fingerprint) for fingerprint in found]
    assert [b.fingerprint if b else None for b in read] == [*found[:3], None]
    served_bundles.settle({"fingerprint": found[1]})
    assert [served_bundles.read(one) is not None for one in found] == [False, True, False, False]
    served_bundles.forget()
    assert served_bundles.served() is None
    assert served_bundles.read(found[1]) is None


def test_half_a_bundle_is_not_kept(tmp_path: Path) -> None:
    folder = make_at(tmp_path / "b", 0)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(AudioCNNError, match="does not match bundle"):
        served_bundles.keep(str(folder))


def test_a_roll_over_labels_of_another_bundle_is_refused(tmp_path: Path) -> None:
    """It is refused before anything is deployed, and the served bundle is still kept."""
    folder = tmp_path / "b"
    first = Predictor(make_bundle(folder))
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / "a.wav").write_bytes(wav())
    label_bucket(str(tmp_path / "labels"), str(tmp_path / "bucket"), first, str(folder))
    served = served_bundles.keep(str(folder))
    served_bundles.settle({"fingerprint": served})
    second = make_bundle(folder, seed=1).fingerprint
    options = Serve(bundle=str(folder), labels=str(tmp_path / "labels"))
    with pytest.raises(MismatchError, match=f"made by bundle {served}, but .* is bundle {second}"):
        run.roll(options, ())
    assert served_bundles.served() == {"fingerprint": served}
    assert served_bundles.read(served) is not None
    assert served_bundles.read(second) is None
