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
    """`label_studio.json`, tasks to import, and `label_studio.xml`, the project's configuration.

    A recording's URI is its task's audio: Label Studio resolves `s3://` by a source storage of
    that bucket, and a path not at all.
    """
    with text_file(target.files, "label_studio.json") as file:
        tasks = _Tasks(file)
        yield tasks.add
        tasks.close()
    # Label Studio refuses a configuration without any label.
    labels = sorted(tasks.labels) or [UNKNOWN]
    lines = [f"    <Label value={quoteattr(label)}/>" for label in labels]
    lines = ["<View>", '  <Labels name="label" toName="audio">', *lines, "  </Labels>"]
    lines += ['  <Audio name="audio" value="$audio"/>', "</View>", ""]
    target.files.write_bytes("label_studio.xml", "\n".join(lines).encode())


class _Tasks:
    """A JSON array of Label Studio's tasks, one a recording, written as events come.

    Known events are regions of a prediction, whose score is the mean of theirs; a recording where
    nothing is known is a task to label from scratch. Regions are of all channels (`channel` is 0
    unless the view splits them), and `original_length` is filled in by Label Studio's editor.
    """

    def __init__(self, file: TextIO) -> None:
        self.labels: set[str] = set()
        self._file = file
        self._uri: str | None = None
        self._written = 0
        self._regions, self._score = 0, 0.0
        file.write("[")

    def add(self, event: Event) -> None:
        """Write an event, and first what ends and begins a task where its recording is another."""
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
        self._written += 1  # ids are to be unique in a project
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
        """End the array."""
        self._end_task()
        self._file.write("\n]\n")
