"""`audiocnn review`: write sounds, a page and a manifest of the windows to check by a person."""

from collections import Counter

from audiocnn import storage
from audiocnn.labels.reader import open_labels
from audiocnn.review.folder import PAGE, REVIEW_CSV, Written, claim, write_review
from audiocnn.review.selection import MOST_OF_A_RECORDING, select_windows
from pipelines.options import Review
from pipelines.runtime import terminal


def review(options: Review) -> Written:
    """Select windows and write the review folder. Return the clips and the skipped recordings.

    Raises AudioCNNError, for example for labels by another bundle or a folder that already holds a
    review.
    """
    storage.configure(options.storage_options)
    labels = open_labels(options.labels, options.bundle)
    to = claim(options.to, labels, overwrite=options.overwrite)
    if labels.warning:
        terminal.warn(labels.warning)
    terminal.step(f"review {terminal.short(labels.uri)}")
    picks = select_windows(labels, options.count)
    kept: dict[str, str] = {}
    written = write_review(to, labels, picks, kept.__setitem__)
    terminal.warn_kept("review", kept)
    _say(options, terminal.short(to), written)
    return written


def _say(options: Review, to: str, written: Written) -> None:
    picks = [clip.pick for clip in written.clips]
    reasons = ", ".join(f"{n} {why}" for why, n in Counter(pick.why for pick in picks).items())
    recordings = len({pick.uri for pick in picks})
    terminal.say(f"{len(picks)} windows of {recordings} recordings ({reasons}) -> {to}")
    if written.skipped:
        uri, reason = next(iter(written.skipped.items()))
        terminal.warn(
            f"{len(written.skipped)} recordings are left out, because they have changed or cannot "
            f"be read: {uri} ({reason})" + ", and others" * (len(written.skipped) > 1)
        )
    elif len(picks) < options.count:
        terminal.say(
            f"fewer than {options.count}: at most {MOST_OF_A_RECORDING} windows of a recording "
            "are taken, and no windows that overlap"
        )
    terminal.say(
        f"listen and label in {to}/{PAGE}; then: {terminal.command()} ingest {to}/{REVIEW_CSV}"
    )
