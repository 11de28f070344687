"""Read and summarise the headers of a sample of recordings, for both dry runs."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from statistics import median

from audiocnn import storage
from audiocnn.audio.decode import AudioInfo, AudioLimits, WindowConfig, count_windows, read_info
from audiocnn.audio.recording import Recording, closing_source, open_recording
from audiocnn.errors import AudioCNNError, AudioError, UnreadableError
from pipelines.runtime import terminal

HEADERS = 256
"""Largest number of recordings in the sample of a dry run."""
_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class Headers:
    """The headers of a sample of recordings, and the errors of those that failed."""

    infos: list[AudioInfo]
    failures: list[tuple[Recording, AudioCNNError]]

    @property
    def looked_at(self) -> int:
        """Number of recordings in the sample."""
        return len(self.infos) + len(self.failures)

    def seconds(self) -> list[float]:
        """Return durations in seconds, shortest first; 0 if a header gives no length."""
        return sorted(info.frames / info.sample_rate for info in self.infos)

    def windows(self, config: WindowConfig) -> float:
        """Return the mean number of windows of a recording; one that failed counts as 0 windows."""
        counts = [count_windows(i.frames / i.sample_rate, config) for i in self.infos]
        return sum(counts) / max(1, self.looked_at)


def read_headers(recordings: list[Recording], limits: AudioLimits) -> Headers:
    """Read the headers of recordings. Raises StorageError if their store is out of reach."""

    def look(recording: Recording) -> AudioInfo | AudioCNNError:
        try:
            with closing_source(open_recording(recording, limits.max_bytes)) as source:
                return _of_segment(read_info(source, limits), recording)
        except (AudioError, UnreadableError) as error:
            return error

    headers = Headers(infos=[], failures=[])
    with ThreadPoolExecutor(_AT_ONCE) as readers:
        for recording, answer in zip(recordings, readers.map(look, recordings), strict=True):
            if isinstance(answer, AudioInfo):
                headers.infos.append(answer)
            else:
                headers.failures.append((recording, answer))
    return headers


def _of_segment(info: AudioInfo, recording: Recording) -> AudioInfo:
    """Return the header's info with the length of the recording's segment, if it has one."""
    if recording.segment is None:
        return info
    first, end = (round(time * info.sample_rate) for time in recording.segment)
    return replace(info, frames=max(0, min(info.frames, end) - first))


def say_headers(headers: Headers, total: int, unit: str) -> None:
    """Print a summary of the headers of a sample of `total` recordings."""
    terminal.say(f"the headers of {headers.looked_at} of {total} {unit}:")
    for name, values in (
        ("formats", [info.container for info in headers.infos]),
        ("rates, Hz", [info.sample_rate for info in headers.infos]),
        ("channels", [info.channels for info in headers.infos]),
    ):
        counts = ", ".join(f"{n} {value}" for value, n in Counter(values).most_common(6))
        terminal.say(f"  {name}: {counts or 'none could be read'}")
    seconds = headers.seconds()
    if seconds:
        terminal.say(
            f"  durations: {seconds[0]:.2f} to {seconds[-1]:.2f} s, median {median(seconds):.2f} s"
        )
    reasons = Counter(str(error).split(":")[0] for _, error in headers.failures)
    for reason, count in reasons.most_common():
        recording, error = next(f for f in headers.failures if str(f[1]).startswith(reason))
        name = terminal.short(storage.printable(recording.uri))
        terminal.warn(f"{count} of them would fail: {error} ({name})")
