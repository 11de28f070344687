"""Every error a user can meet.

AudioCNNError                 a mistake of the user or the world: one line, exit code 2
├── ConfigError               an option that cannot be, or options that do not fit each other
├── StorageError              a URI that cannot be listed, read or written: ends the job
│   ├── NotAFolderError       a file where a folder is needed
│   └── UnreadableError       one object that cannot be read: costs its row, and others go on
│       ├── GoneError         it is not there, or not any more
│       └── ChangedError      it is no longer what was listed
├── CorpusError               labels, folds or sources that do not add up
├── AudioError                one recording that cannot be used; `reason` is a key of REASONS
├── FormatError               an artefact of another format or version, or a damaged one
├── MismatchError             artefacts that were not made for each other
├── LedgerError               a job whose sums do not add up
├── TrainingError             a training that cannot go on: its loss is no number, its workers die
└── InstallationError         packages that do not fit each other

Anything else that escapes is our own bug and shows a traceback.
"""

from collections.abc import Sequence

FAILURE_REASONS = {
    "unrecognised": "not WAV, FLAC, OGG or MP3 audio that we read",
    "empty": "no bytes, or no samples",
    "too_short": "shorter than the shortest recording allowed",
    "too_long": "longer than the longest recording allowed",
    "too_large": "more bytes than allowed",
    "channels": "more channels than allowed",
    "sample_rate": "a sample rate outside the range allowed",
    "truncated": "the file ends before its header says, or holds more that may be sound",
    "non_finite": "NaN, infinite or absurdly large samples",
    "decode": "the decoder gave up on it",
    "scores": "the model's scores for it are no numbers",
    "crashed": "the process that decoded it died, hung, or ran out of memory",
    "unreadable": "the object could not be read from storage",
    "gone": "the object is not there, or not any more",
    "changed": "the object was written anew after it was listed",
    "label": "no label, a label without a sound, or one that is not UTF-8",
    "duplicate": "listed twice; the first is used",
    "fold": "a fold that is no whole number from 0 to 2147483647",
    "segment": "onset_s and offset_s that are no stretch of time in seconds, or not both there",
    "path": "a name that is not UTF-8, or leads where its manifest may not",
}


class AudioCNNError(Exception):
    """Base of every error that is for its reader: the message is one line that says the mend."""


class ConfigError(AudioCNNError):
    """An option that cannot be, or options that do not fit each other."""


class StorageError(AudioCNNError):
    """A URI that cannot be listed, read or written.

    An endpoint that is gone, keys that are refused, a missing bucket, a full disk: what would
    befall the next object too ends the job, so that it can be resumed.
    """


class NotAFolderError(StorageError):
    """A file where a folder is needed."""


class UnreadableError(StorageError):
    """One object that is not there, may not be read, or is no file with a readable name."""

    reason = "unreadable"
    """A key of `FAILURE_REASONS`."""


class GoneError(UnreadableError):
    """One object that is not there, or not any more."""

    reason = "gone"


class ChangedError(UnreadableError):
    """One object that is no longer what was listed."""

    reason = "changed"


class CorpusError(AudioCNNError):
    """Labels, folds or sources of a corpus that do not add up."""


class AudioError(AudioCNNError):
    """One recording that cannot be used.

    `reason` is a key of `FAILURE_REASONS`; `detail` says what was found in this recording.
    """

    def __init__(self, reason: str, detail: str) -> None:
        if reason not in FAILURE_REASONS:
            raise ValueError(f"{reason!r} is not one of {sorted(FAILURE_REASONS)}")
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class FormatError(AudioCNNError):
    """An artefact of another format or version, or a damaged one."""


class MismatchError(AudioCNNError):
    """Two artefacts, or an artefact and an option, that were not made for each other."""


class LedgerError(AudioCNNError):
    """A job whose sums do not add up: something was lost, so the job must not pass for done."""


class TrainingError(AudioCNNError):
    """A training that cannot go on: its loss is no number, or its workers die again and again."""


class InstallationError(AudioCNNError):
    """Installed packages that do not fit each other."""


_NAMED = 8


def few(names: Sequence[str]) -> str:
    """The first few of some names, and how many more there are, for a message."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
