"""Read a corpus of any layout.

To add a layout, write a class like those in `layouts/`, and add it to `LAYOUTS`.
"""

from audiocnn import storage
from audiocnn.corpus.clips import Corpus, assemble
from audiocnn.corpus.layouts.base import Layout, suffix
from audiocnn.corpus.layouts.folders import FolderPerClass
from audiocnn.corpus.layouts.manifest import MANIFEST_SUFFIXES, Manifest
from audiocnn.corpus.layouts.speech_commands import SpeechCommands
from audiocnn.corpus.layouts.tables import Esc50, UrbanSound8K
from audiocnn.corpus.layouts.webdataset import WebDataset
from audiocnn.errors import CorpusError, NotAFolderError
from audiocnn.storage import listing
from audiocnn.storage.listing import StoredFile

LAYOUTS: tuple[Layout, ...] = (
    Manifest(),
    Esc50(),
    UrbanSound8K(),
    SpeechCommands(),
    FolderPerClass(),
    WebDataset(),
)
"""All layouts; the first one that matches is used."""


def read_corpus(uri: str) -> Corpus:
    """Return the checked corpus at a URI, in any of `LAYOUTS`.

    Entries that cannot be used are in `rejected`. Raises StorageError, and CorpusError for an
    unknown layout and for the reasons of `assemble`.
    """
    uri = storage.absolute(uri)
    looks = ", or ".join(layout.looks for layout in LAYOUTS)
    try:
        files = _listed(uri)
    except NotAFolderError as error:
        raise CorpusError(f"{uri}: a file, and not a corpus: expected {looks}") from error
    layout = next((layout for layout in LAYOUTS if layout.matches(uri, files)), None)
    if layout is None:
        raise CorpusError(f"{uri}: not a corpus: expected {looks}")
    return assemble(uri, layout.name, layout.clips(uri, files), files)


def _listed(uri: str) -> list[StoredFile]:
    if suffix(uri) in MANIFEST_SUFFIXES:
        return []
    return listing.list_files(uri) if suffix(uri) != ".tar" else [listing.stored_file(uri)]
