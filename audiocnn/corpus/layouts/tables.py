"""Read corpora with a CSV file that lists their recordings: ESC-50 and UrbanSound8K."""

from collections.abc import Iterator

from audiocnn import storage
from audiocnn.corpus.clips import Clip, Rejected
from audiocnn.corpus.layouts.base import clip_of_file, not_found, read_csv
from audiocnn.storage.listing import StoredFile


class _Table:
    """Recordings beside a CSV file with their names, folds, classes and sources."""

    name: str
    looks: str
    meta: str
    """Path of the CSV file."""
    path: str
    """Path of a row's recording, with the names of columns in braces."""
    columns: tuple[str, str, str, str]
    """Names of the columns with clip_id, fold, label and source."""

    def matches(self, uri: str, files: list[StoredFile]) -> bool:
        """Return whether the CSV file is there."""
        return any(file.path == self.meta for file in files)

    def clips(self, uri: str, files: list[StoredFile]) -> Iterator[Clip | Rejected]:
        """Yield one clip for each row of the CSV; underscores in class names become spaces."""
        by_path = {file.path: file for file in files}
        for row in read_csv(storage.join(uri, self.meta), *self.columns):
            clip_id, fold, label, source = (row[name] for name in self.columns)
            path = self.path.format_map(row)
            if path in by_path:
                yield clip_of_file(by_path[path], label.replace("_", " "), fold, source, clip_id)
            else:
                yield not_found(storage.join(uri, path), self.meta)


class Esc50(_Table):
    """The layout of ESC-50, with five folds."""

    name = "esc50"
    looks = "meta/esc50.csv and audio/"
    meta = "meta/esc50.csv"
    path = "audio/{filename}"
    columns = ("filename", "fold", "category", "src_file")


class UrbanSound8K(_Table):
    """The layout of UrbanSound8K: ten folds, a folder each; a source is a Freesound recording."""

    name = "urbansound8k"
    looks = "metadata/UrbanSound8K.csv and audio/fold1/"
    meta = "metadata/UrbanSound8K.csv"
    path = "audio/fold{fold}/{slice_file_name}"
    columns = ("slice_file_name", "fold", "class", "fsID")
