"""`audiocnn similar`: find the windows of a labelled bucket that sound most like a clip."""

from rich.cells import set_cell_size

from audiocnn import storage
from audiocnn.errors import AudioError, ConfigError
from audiocnn.labels.reader import Labelled, open_labels
from audiocnn.model.predictor import Predictor
from audiocnn.review.search import Match, SearchResult, embed, matches_csv, nearest
from audiocnn.storage import output_folder
from pipelines.options import Similar
from pipelines.runtime import terminal

_LABEL_CELLS = 24


def similar(options: Similar) -> SearchResult:
    """Search, print the matches, and write them to a CSV file if `options.to` names one.

    Raises AudioCNNError, for example for labels without embeddings or by another bundle, or a clip
    that cannot be decoded.
    """
    storage.configure(options.storage_options)
    to = options.to and _claim(options.to, overwrite=options.overwrite)
    labels = open_labels(options.labels, options.bundle)
    labels.require_embeddings()
    if labels.warning:
        terminal.warn(labels.warning)
    try:
        predictor = Predictor.load(labels.bundle, fingerprint=labels.fingerprint)
        clip = embed(predictor, options.to_clip, labels)
    except AudioError as error:
        raise ConfigError(f"--to-clip {options.to_clip}: {error}") from error
    found = nearest(labels, clip, options.count)
    terminal.step(
        f"{found.windows} windows of {terminal.short(labels.bucket)} compared with "
        f"{len(clip)} of {terminal.short(options.to_clip)}"
    )
    _say(labels, found.matches)
    if found.unusable:
        terminal.warn(f"{found.unusable} windows have an embedding that is zero or not finite")
    if to:
        storage.write_bytes(to, matches_csv(found.matches, labels.fingerprint))
        terminal.say(f"-> {terminal.short(to)}")
    return found


def _claim(to: str, *, overwrite: bool) -> str:
    to = output_folder.resolve(to)
    if storage.exists(to) and not overwrite:
        raise ConfigError(f"--to {to}: it exists already; name another file, or pass --overwrite")
    return to


def _say(labels: Labelled, matches: list[Match]) -> None:
    """Print matches as a table. Long names are not cut or wrapped, so that they can be copied."""
    terminal.say(f"similarity  {'label':{_LABEL_CELLS}}  score  seconds             recording")
    for match in matches:
        label = set_cell_size(_plain(match.label), _LABEL_CELLS)
        seconds = f"{match.start_s:.2f}\u2013{match.end_s:.2f}"
        name = _plain(labels.name(match.uri))
        terminal.say(f"{match.similarity:10.4f}  {label}  {match.score:.3f}  {seconds:18}  {name}")


def _plain(text: str) -> str:
    """Replace unprintable characters, which could control the terminal."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)
