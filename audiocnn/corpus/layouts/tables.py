"""Read corpora that have a CSV of their recordings: ESC-50 and UrbanSound8K."""

from collections.abc import Iterator

from audiocnn import storage
from audiocnn.corpus.clips import Clip, Rejected
from audiocnn.corpus.layouts.base import clip_of_file, not_found, read_csv
from audiocnn.storage.listing import StoredFile


class _Table:
    """Recordings beside a CSV of their names, folds, classes and sources."""

    name: str
    looks: str
    meta: str
    """The CSV's path."""
    path: str
    """A row's file, with the names of columns in braces."""
    columns: tuple[str, str, str, str]
    """The columns of clip_id, fold, label and source."""

    def matches(self, uri: str, files: list[StoredFile]) -> bool:
        """Whether the CSV is there."""
        return any(file.path == self.meta for file in files)

    def clips(self, uri: str, files: list[StoredFile]) -> Iterator[Clip | Rejected]:
        """One clip for each line of the CSV; underscores in names of classes are spaces."""
        by_path = {file.path: file for file in files}
        for row in read_csv(storage.join(uri, self.meta), *self.columns):
            clip_id, fold, label, source = (row[name] for name in self.columns)
            path = self.path.format_map(row)
            if path in by_path:
                yield clip_of_file(by_path[path], label.replace("_", " "), fold, source, clip_id)
            else:
                yield not_found(storage.join(uri, path), self.meta)


class Esc50(_Table):
    """ESC-50's own: five folds."""

    name = "esc50"
    looks = "meta/esc50.csv and audio/"
    meta = "meta/esc50.csv"
    path = "audio/{filename}"
    columns = ("filename", "fold", "category", "src_file")


class UrbanSound8K(_Table):
    """UrbanSound8K's own: ten folds, a folder each; a source is a recording of Freesound."""

    name = "urbansound8k"
    looks = "metadata/UrbanSound8K.csv and audio/fold1/"
    meta = "metadata/UrbanSound8K.csv"
    path = "audio/fold{fold}/{slice_file_name}"
    columns = ("slice_file_name", "fold", "class", "fsID")
