"""Progress messages from training workers to the terminal: steps, epochs and warnings."""

import threading
import time
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.runtime import terminal

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
    """The sending end, passed to the workers. `run` is the name of one of several parallel runs."""

    def __init__(self, mailbox: Any, run: str) -> None:
        self._mailbox, self._run = mailbox, run
        self._sent = 0.0

    def started(self, epochs_done: int, workers: int) -> None:
        """Report that the workers have started, and how many epochs were done before."""
        self._put({"started": epochs_done, "workers": workers})

    def step(self, epoch: int, step: int, steps: int) -> None:
        """Report a finished step, at most five times a second."""
        if time.monotonic() - self._sent > 2 * _POLL_S:
            self._sent = time.monotonic()
            self._put({"epoch": epoch, "step": step, "steps": steps})

    def epoch(self, row: dict[str, Any]) -> None:
        """Send the figures of a finished epoch."""
        self._put(row)

    def note(self, text: str) -> None:
        """Send a line that is shown as a warning."""
        self._put({"note": text})

    def _put(self, message: dict[str, Any]) -> None:
        self._mailbox.put.remote({"run": self._run, **message})


class Listener:
    """The receiving end: print a line for each epoch and move a bar while its block runs.

    `epochs` maps run names to numbers of epochs: one run, named "", or several side by side.
    """

    def __init__(self, epochs: dict[str, int]) -> None:
        self._epochs = epochs
        self._done = dict.fromkeys(epochs, 0)
        # Keep the mailbox on this node: any other node may be lost while the listener still runs.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._mailbox = _Mailbox.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def channel(self, run: str = "") -> Channel:
        """Return the sending end for a run."""
        return Channel(self._mailbox, run)

    def __enter__(self) -> "Listener":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        ray.kill(self._mailbox)

    def _listen(self) -> None:
        with terminal.bar(sum(self._epochs.values())) as bar:
            bar.update(0, "starting the workers")
            last = False
            while not last:
                last = self._stop.wait(_POLL_S)
                for row in ray.get(self._mailbox.drain.remote()):
                    self._show(bar, row)

    def _show(self, bar: terminal.Bar, row: dict[str, Any]) -> None:
        run = row["run"]
        before = f"{run}  " if run else ""
        note = ""
        if "note" in row:
            terminal.warn(before + row["note"])
        elif "started" in row:
            self._done[run] = row["started"]
            if row["started"]:
                terminal.say(f"{before}continuing after epoch {row['started']}")
        elif "step" in row:
            self._done[run] = row["epoch"]
            note = f"{before}step {row['step']}/{row['steps']}"
        else:
            self._done[run] = row["epoch"]
            figures = {name: value for name, value in row.items() if name != "run"}
            terminal.say(before + _epoch_line(row, self._epochs[run]), fold=run or None, **figures)
        bar.update(sum(self._done.values()), note)


def _epoch_line(row: dict[str, Any], epochs: int) -> str:
    width = len(str(epochs))
    line = f"epoch {row['epoch']:>{width}}/{epochs}  loss {row['loss']:.3f}"
    if "validation_loss" in row:
        line += f"  validation {row['validation_loss']:.3f}, {100 * row['accuracy']:.1f} %"
    line += f"  lr {row['lr']:.1e}  {row['windows_per_s']:.0f} windows/s"
    return line + (f"  {terminal.duration(row['left_s'])} left" if row["epoch"] < epochs else "")
