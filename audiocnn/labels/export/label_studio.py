"""Write tasks for Label Studio."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO
from xml.sax.saxutils import quoteattr

from audiocnn.config import UNKNOWN
from audiocnn.labels.events import Event
from audiocnn.labels.export.base import CONTROLS, Add, Target, fields_of, text_file


@contextmanager
def to_label_studio(target: Target) -> Iterator[Add]:
    """Write `label_studio.json`, tasks to import, and `label_studio.xml`, the project's settings.

    The audio of a task is the recording's URI. Label Studio resolves `s3://` if the project has a
    source storage for that bucket; it cannot resolve local paths.
    """
    with text_file(target.files, "label_studio.json") as file:
        tasks = _Tasks(file)
        yield tasks.add
        tasks.close()
    # Label Studio refuses a configuration without labels.
    labels = sorted(tasks.labels) or [UNKNOWN]
    lines = [f"    <Label value={quoteattr(label)}/>" for label in labels]
    lines = ["<View>", '  <Labels name="label" toName="audio">', *lines, "  </Labels>"]
    lines += ['  <Audio name="audio" value="$audio"/>', "</View>", ""]
    target.files.write_bytes("label_studio.xml", "\n".join(lines).encode())


class _Tasks:
    """A JSON array of Label Studio tasks, one for each recording, written as events arrive.

    Known events become the regions of a prediction; its score is the mean of theirs. A recording
    without known events becomes a task without predictions, to be labelled from scratch. Regions
    apply to all channels (`channel` is 0 unless the view splits channels). Label Studio's editor
    fills in `original_length`.
    """

    def __init__(self, file: TextIO) -> None:
        self.labels: set[str] = set()
        self._file = file
        self._uri: str | None = None
        self._written = 0
        self._regions, self._score = 0, 0.0
        file.write("[")

    def add(self, event: Event) -> None:
        """Write an event; if its recording is a new one, first end the task and begin the next."""
        if event.uri != self._uri:
            self._end_task()
            data = json.dumps({"audio": event.uri})
            self._file.write("\n" if self._uri is None else ",\n")
            self._file.write(f'{{"data": {data}, "predictions": [')
            self._uri, self._regions, self._score = event.uri, 0, 0.0
        if event.label != UNKNOWN:
            version = json.dumps(f"audiocnn {event.bundle}")
            begin = f'{{"model_version": {version}, "result": ['
            self._file.write(", " if self._regions else begin)
            self._file.write(json.dumps(self._region(event)))
            self._regions, self._score = self._regions + 1, self._score + event.score

    def _region(self, event: Event) -> dict[str, object]:
        label = CONTROLS.sub(" ", event.label)
        self.labels.add(label)
        self._written += 1  # ids must be unique in a project
        fields = fields_of(event)
        start, end = fields["onset_s"], fields["offset_s"]
        return {
            "id": f"audiocnn-{self._written}",
            "from_name": "label",
            "to_name": "audio",
            "type": "labels",
            "value": {"start": start, "end": end, "channel": 0, "labels": [label]},
            "score": fields["score"],
        }

    def _end_task(self) -> None:
        if self._regions:
            self._file.write(f'], "score": {round(self._score / self._regions, 6)}}}')
        if self._uri is not None:
            self._file.write("]}")

    def close(self) -> None:
        """End the last task and the array."""
        self._end_task()
        self._file.write("\n]\n")
