"""Read the layout of Speech Commands."""

from collections.abc import Iterator

from audiocnn import storage
from audiocnn.corpus.clips import Clip, Rejected
from audiocnn.corpus.layouts.base import audio_files, clip_of_file, not_found, read_text
from audiocnn.storage.listing import StoredFile


class SpeechCommands:
    """The layout of Speech Commands: a folder for each word, lists of validation and test files.

    Folds: 1 for training, 2 for validation, 3 for testing. A source is a speaker.
    """

    name = "speechcommands"
    looks = "validation_list.txt and testing_list.txt beside a folder for each word"
    _lists = (("validation_list.txt", "2"), ("testing_list.txt", "3"))

    def matches(self, uri: str, files: list[StoredFile]) -> bool:
        """Return whether both lists are there."""
        return {file.path for file in files} >= {path for path, _ in self._lists}

    def clips(self, uri: str, files: list[StoredFile]) -> Iterator[Clip | Rejected]:
        """Yield one clip for each recording in a word's folder, without `_background_noise_`."""
        folds: dict[str, str] = {}
        for path, fold in self._lists:
            text = read_text(storage.join(uri, path))
            folds |= {line.rstrip("\r"): fold for line in text.split("\n") if line.strip()}
        recordings = {
            file.path: file
            for file in audio_files(files)
            if "/" in file.path and not file.path.startswith("_background_noise_/")
        }
        for path in sorted(folds.keys() - recordings.keys()):
            yield not_found(storage.join(uri, path), "one of the lists")
        for path, file in recordings.items():
            word, _, name = path.partition("/")
            speaker, found, _ = name.partition("_nohash_")
            yield clip_of_file(file, word, folds.get(path, "1"), speaker if found else "")
