"""What the first training worker tells the terminal: steps within an epoch, and epochs."""

import threading
import time
from collections.abc import Callable
from typing import Any

import ray

from pipelines import display

_POLL_S = 0.1


@ray.remote(num_cpus=0)
class _Mailbox:
    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def put(self, message: dict[str, Any]) -> None:
        self.messages.append(message)

    def drain(self) -> list[dict[str, Any]]:
        messages, self.messages = self.messages, []
        return messages


class Channel:
    """The sending end; travels to the workers."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox
        self._sent = 0.0

    def steps(self, epoch: int, total: int) -> Callable[[int], None]:
        """A function to call after each step of an epoch; it sends a few times a second."""

        def told(step: int) -> None:
            if time.monotonic() - self._sent > 2 * _POLL_S:
                self._sent = time.monotonic()
                self._mailbox.put.remote({"epoch": epoch, "step": step, "steps": total})

        return told

    def epoch(self, row: dict[str, Any]) -> None:
        """Send the figures of a finished epoch."""
        self._mailbox.put.remote(row)


class Listener:
    """The receiving end: prints a line an epoch and moves a bar while its block runs."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self._mailbox = _Mailbox.remote()  # type: ignore[attr-defined]
        self.channel = Channel(self._mailbox)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> "Listener":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        ray.kill(self._mailbox)

    def _listen(self) -> None:
        with display.bar(self.epochs) as bar:
            bar.update(0, "starting the workers")
            last = False
            while not last:
                last = self._stop.wait(_POLL_S)
                for row in ray.get(self._mailbox.drain.remote()):
                    if "step" in row:
                        bar.update(row["epoch"], f"step {row['step']}/{row['steps']}")
                    else:
                        bar.update(row["epoch"])
                        display.say(_epoch_line(row, self.epochs))


def _epoch_line(row: dict[str, Any], epochs: int) -> str:
    width = len(str(epochs))
    line = f"epoch {row['epoch']:>{width}}/{epochs}  loss {row['loss']:.3f}"
    if "validation_loss" in row:
        line += f"  validation {row['validation_loss']:.3f}, {100 * row['accuracy']:.1f} %"
    return f"{line}  lr {row['lr']:.1e}  {row['windows_per_s']:.0f} windows/s"
