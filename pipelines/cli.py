"""The `audiocnn` command: one verb a job, and each job imported only when its verb is called."""

import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from itertools import pairwise
from typing import Annotated, Any

import tyro

from audiocnn.errors import AudioCNNError
from pipelines.options import Demo, Doctor, Evaluate, Ingest, Label, Train
from pipelines.recipes import RECIPES


def _ingest(options: Ingest) -> None:
    from pipelines.ingest import ingest
    from pipelines.survey import survey

    (survey if options.dry_run else ingest)(options)


def _train(options: Train) -> None:
    from pipelines.train import train

    train(options)


def _evaluate(options: Evaluate) -> None:
    from pipelines.evaluate import evaluate

    evaluate(options)


def _label(options: Label) -> None:
    from pipelines.label import label

    label(options)


def _demo(options: Demo) -> None:
    from pipelines.demo import demo

    demo(options)


def _doctor(options: Doctor) -> None:
    from pipelines.doctor import doctor

    if not doctor(options):
        raise SystemExit(2)


VERBS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "ingest": (Ingest, _ingest),
    "train": (Train, _train),
    "evaluate": (Evaluate, _evaluate),
    "label": (Label, _label),
    "demo": (Demo, _demo),
    "doctor": (Doctor, _doctor),
}


def main() -> None:
    """Run one verb. Exit codes: 0 done, 1 our own bug, 2 a mistake of the user or the world."""
    try:
        options = parse(sys.argv[1:])
        run = next(run for kind, run in VERBS.values() if isinstance(options, kind))
        if not isinstance(options, Doctor):
            _prepare()
        run(options)
    except AudioCNNError as error:
        print(f"audiocnn: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt as stop:
        print("audiocnn: stopped" + "".join(f"; {text}" for text in stop.args), file=sys.stderr)
        raise SystemExit(130) from None


def parse(arguments: list[str]) -> Any:
    """The options of a command line; usage errors and `--help` leave by SystemExit."""
    recipe = RECIPES[_recipe(arguments)]()
    kinds = [
        Annotated[kind, tyro.conf.subcommand(name, default=_defaults(kind, recipe))]
        for name, (kind, _) in VERBS.items()
    ]
    union: Any = kinds[0]
    for kind in kinds[1:]:
        union = union | kind
    return tyro.cli(
        union,
        args=arguments,
        prog="audiocnn",
        description="Labelled audio -> a classifier to look inside -> a labelled bucket, on Ray.",
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
    )


def _recipe(arguments: list[str]) -> str:
    """The recipe that a command line names: its fields are the defaults of all other options."""
    chosen = "esc10"
    for argument, following in pairwise([*arguments, ""]):
        name = following if argument == "--recipe" else argument.removeprefix("--recipe=")
        if name != argument and name in RECIPES:
            chosen = name  # the last one counts, as it does for tyro
    return chosen


def _defaults(kind: type, recipe: Any) -> Any:
    """An instance of a verb's options with the recipe's fields, and what must be given missing."""
    values = {
        f.name: tyro.MISSING
        for f in fields(kind)
        if f.default is MISSING and f.default_factory is MISSING
    }
    values |= {f.name: getattr(recipe, f.name) for f in fields(kind) if hasattr(recipe, f.name)}
    return kind(**values)


def _prepare() -> None:
    from pipelines import session

    session.divert_native_stderr()


if __name__ == "__main__":
    main()
