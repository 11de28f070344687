"""All errors that a user can get.

AudioCNNError                 a wrong input or environment: a message of one line, exit code 2
├── ConfigError               an option that is not allowed, or options that contradict each other
├── StorageError              a URI that cannot be listed, read or written: ends the job
│   ├── NotAFolderError       a file where a folder is needed
│   └── UnreadableError       one object that cannot be read: it fails, the job continues
│       ├── GoneError         the object does not exist, or does not exist any more
│       └── ChangedError      the object changed after it was listed
├── CorpusError               a corpus with missing or inconsistent labels, folds or sources
├── AudioError                one recording that cannot be used; `reason`: see FAILURE_REASONS
├── FormatError               an artefact of another format or version, or a damaged one
├── MismatchError             artefacts that do not belong together
├── LedgerError               a job with counts that do not add up
├── TrainingError             a training that cannot continue: loss not finite, or workers lost
└── InstallationError         installed packages that do not fit or do not run

Any other exception is a bug in audiocnn and shows a traceback.
"""

from collections.abc import Sequence

FAILURE_REASONS = {
    "unrecognised": "not in a container of sound that audiocnn reads",
    "empty": "no bytes, or no samples",
    "too_short": "shorter than the shortest recording allowed",
    "too_long": "longer than the longest recording allowed",
    "too_large": "more bytes than allowed",
    "channels": "more channels than allowed",
    "sample_rate": "a sample rate outside the range allowed",
    "truncated": "the file is shorter than its header states, or has more data that may be sound",
    "non_finite": "NaN, infinite or absurdly large samples",
    "decode": "the decoder failed",
    "scores": "the model's scores are not finite",
    "crashed": "the process that decoded it died, hung, or ran out of memory",
    "unreadable": "the object could not be read from storage",
    "gone": "the object does not exist, or does not exist any more",
    "changed": "the object changed after it was listed",
    "label": "no label, a label without a sound, or one that is not UTF-8",
    "duplicate": "listed twice; the first is used",
    "fold": "a fold that is not a whole number from 0 to 2147483647",
    "segment": "onset_s and offset_s are not a time range in seconds, or one of them is missing",
    "path": "a name that is not UTF-8, or a path that the manifest may not use",
}


class AudioCNNError(Exception):
    """Base class of all errors for users: the message is one line that says how to fix it."""


class ConfigError(AudioCNNError):
    """An option has a value that is not allowed, or options contradict each other."""


class StorageError(AudioCNNError):
    """A URI cannot be listed, read or written.

    Examples are an unreachable endpoint, refused keys, a missing bucket or a full disk. The next
    object would fail in the same way, so the error ends the job. The job can be resumed.
    """


class NotAFolderError(StorageError):
    """A URI names a file, but a folder is needed."""


class UnreadableError(StorageError):
    """One object is missing or access is denied, or it is not a regular file with a valid name."""

    reason = "unreadable"
    """Key of `FAILURE_REASONS`."""


class GoneError(UnreadableError):
    """One object does not exist, or does not exist any more."""

    reason = "gone"


class ChangedError(UnreadableError):
    """One object changed after it was listed or opened."""

    reason = "changed"


class CorpusError(AudioCNNError):
    """A corpus cannot be used: its labels, folds, sources or files are missing or inconsistent."""


class AudioError(AudioCNNError):
    """One recording cannot be used.

    `reason` is a key of `FAILURE_REASONS`. `detail` describes the problem in this recording.
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
    """An artefact has another format or version, or it is damaged."""


class MismatchError(AudioCNNError):
    """Two artefacts, or an artefact and an option, do not belong together."""


class LedgerError(AudioCNNError):
    """The counts of a job do not add up: results were lost, so the job must not count as done."""


class TrainingError(AudioCNNError):
    """A training cannot continue: its loss is not finite, or its workers were lost too often."""


class InstallationError(AudioCNNError):
    """Installed packages do not fit each other, or a process of ours cannot run on this machine."""


_NAMED = 8


def few(names: Sequence[str]) -> str:
    """Return the first 8 names, and the number of the others, for a message."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
