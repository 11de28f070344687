"""`audiocnn doctor`: check the installation, and say how to fix problems."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from audiocnn import storage
from audiocnn.config import Variable
from audiocnn.storage import listing, machine
from pipelines.options import Doctor
from pipelines.runtime import auth, terminal


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check. `mend` says how to fix a problem; it is empty if there is none."""

    name: str
    found: str
    mend: str = ""


def doctor(options: Doctor) -> bool:
    """Print one line for each check. Return whether all checks passed."""
    storage.configure(options.storage_options)
    if options.mend:
        mend_torchaudio()
    well = True
    for finding in _checks(options):
        mark = "[bold red]✗[/]" if finding.mend else "[bold green]✓[/]"
        terminal.console.print(f"{mark} {finding.name:<17}", end="")
        terminal.console.print(finding.found, markup=False, soft_wrap=True)
        if finding.mend:
            terminal.console.print(f"{'':19}→ {finding.mend}", markup=False, soft_wrap=True)
            well = False
    return well


def _checks(options: Doctor) -> Iterator[Finding]:
    version = platform.python_version()
    old = sys.version_info < (3, 11)
    yield Finding(name="python", found=version, mend="install Python 3.11 or newer" if old else "")
    for text in importlib.metadata.requires("audiocnn") or []:
        requirement = Requirement(text)
        if requirement.marker is None:  # the others are extras, for developers
            yield _package(requirement)
    yield _torchaudio()
    yield _devices()
    yield _ray()
    yield _token()
    if options.uri:
        yield _storage(options.uri)


def _package(requirement: Requirement) -> Finding:
    """Check that a requirement of pyproject.toml is installed, in a version that it allows."""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name=requirement.name, found="not installed", mend="make setup")
    fits = requirement.specifier.contains(version)
    mend = "" if fits else f"make setup ({requirement.name}{requirement.specifier} is needed)"
    return Finding(name=requirement.name, found=version, mend=mend)


def _guarded(name: str, mend: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name=name, found=check())
    except Exception as error:  # a broken installation may raise anything
        return Finding(name=name, found=f"{type(error).__name__}: {error}", mend=mend)


def _torchaudio() -> Finding:
    def check() -> str:
        import torchaudio.transforms

        torchaudio.transforms.MelSpectrogram(n_mels=8, n_fft=64)
        return "torchaudio computes, without its compiled extension if torch has no CUDA"

    return _guarded("audio fit", "audiocnn doctor --mend", check)


def _devices() -> Finding:
    def check() -> str:
        import torch

        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return f"{machine.cpus()} CPUs, {len(gpus)} GPUs {' '.join(gpus)}".rstrip()

    return _guarded("devices", "make setup", check)


def _ray() -> Finding:
    def check() -> str:
        from pipelines.runtime import session

        cluster = session.connect()
        where = Variable.RAY_ADDRESS.get() or "started on this machine"
        return f"{cluster.cpus} CPUs, {cluster.gpus} GPUs ({where})"

    return _guarded("ray cluster", "check RAY_ADDRESS, RAY_AUTH_MODE and RAY_AUTH_TOKEN", check)


def _token() -> Finding:
    path = auth.token_path()
    if os.environ.get("RAY_AUTH_TOKEN"):
        return Finding(name="ray token", found="RAY_AUTH_TOKEN")
    if not path.is_file():
        return Finding(name="ray token", found=f"{path}: no token yet; a cluster here gets one")
    who = auth.readable_by(path)
    if not who:
        return Finding(name="ray token", found=f"{path}, readable only by its owner")
    return Finding(
        name="ray token",
        found=f"{path} can be read by {who}: any reader can run code on clusters with this token",
        mend=f"chmod 600 {path}; when no cluster runs, delete it: the next one gets a new token",
    )


def _storage(uri: str) -> Finding:
    def check() -> str:
        files = listing.list_files(uri)
        if not files:
            return f"{uri} can be listed ({storage.endpoint(uri)}), and is empty"
        storage.read_bytes(files[0].uri, 0)
        return f"{uri} can be listed and read ({storage.endpoint(uri)}): {len(files)} files"

    return _guarded("storage", "check the URI and its credentials", check)


def mend_torchaudio() -> None:
    """Delete torchaudio's `lib` folder if torch has no CUDA libraries for it to link to.

    torchaudio works without that folder: audiocnn uses only parts of it that are plain torch.
    """
    import torch

    spec = importlib.util.find_spec("torchaudio")
    if torch.version.cuda is not None or spec is None or spec.origin is None:
        return
    library = Path(spec.origin).parent / "lib"
    if library.is_dir():
        shutil.rmtree(library)
        terminal.say(f"removed {library}: torchaudio's compiled extension needs CUDA libraries")
