"""The `audiocnn` command line. Each verb imports its job only when it is called."""

import json
import os
import select
import signal
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields, replace
from itertools import pairwise
from typing import Annotated, Any

import tyro

import audiocnn
from audiocnn.config import Variable
from audiocnn.errors import AudioCNNError, ConfigError
from pipelines.options import (
    Demo,
    Doctor,
    Evaluate,
    Ingest,
    Label,
    Review,
    Similar,
    Submit,
    Train,
)
from pipelines.recipes import RECIPES
from pipelines.runtime import quiet
from serve.options import Serve


def _ingest(options: Ingest) -> None:
    from pipelines.ingest.dry_run import survey
    from pipelines.ingest.job import ingest

    (survey if options.dry_run else ingest)(options)


def _train(options: Train) -> None:
    from pipelines.train.job import train

    train(options)


def _evaluate(options: Evaluate) -> None:
    from pipelines.evaluate import evaluate

    evaluate(options)


def _label(options: Label) -> None:
    from pipelines.label.dry_run import prospect
    from pipelines.label.job import label

    (prospect if options.dry_run else label)(options)


def _similar(options: Similar) -> None:
    from pipelines.similar import similar

    similar(options)


def _review(options: Review) -> None:
    from pipelines.review import review

    review(options)


def _serve(options: Serve) -> None:
    from pipelines.runtime import session, terminal
    from serve.deploy import config_file, haproxy, run

    keys = run.check(options)
    if options.config is not None:
        path = config_file.write_config(options)
        terminal.say(f"wrote {path}; `serve deploy {path}` starts the endpoint on a cluster")
        return
    terminal.step(f"serve {terminal.short(options.bundle)}")
    if not run.is_joined():
        haproxy.prepare(options.address)
    cluster = session.connect(options.metrics_port)
    options = run.size_replicas(options, cluster.most_cpus, cluster.most_gpus)
    run.listen(options)
    # An error above this line must not stop applications that other users serve.
    try:
        address = run.start(options, keys)
        terminal.say(f"dashboard: {address} (Ctrl-C stops the endpoint)")
        terminal.say(f"API: {address}/v1/predict, described at {address}/docs")
        for event in run.rolls(options, keys):
            terminal.say(event)
    finally:
        run.stop()


def _submit(options: Submit) -> None:
    from pipelines.runtime.reachable import require_shared
    from pipelines.tools.submit import submit

    if not options.command:
        raise ConfigError(f"submit: no verb given; the verbs are {', '.join(VERBS)}")
    # Report mistakes in the command line here, before anything is sent to the cluster.
    require_shared(parse(list(options.command)), "the cluster's nodes cannot read it")
    code = submit(options)
    if code:
        raise SystemExit(code)


def _demo(options: Demo) -> None:
    from pipelines.tools.demo import demo

    demo(options)


def _doctor(options: Doctor) -> None:
    from pipelines.tools.doctor import doctor

    if not doctor(options):
        raise SystemExit(2)


VERBS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "ingest": (Ingest, _ingest),
    "train": (Train, _train),
    "evaluate": (Evaluate, _evaluate),
    "label": (Label, _label),
    "similar": (Similar, _similar),
    "review": (Review, _review),
    "serve": (Serve, _serve),
    "submit": (Submit, _submit),
    "demo": (Demo, _demo),
    "doctor": (Doctor, _doctor),
}


def main() -> None:
    """Run one verb.

    Exit codes: 0 success, 1 a bug in audiocnn, 2 a mistake of the user or a failure of the
    environment, 130 Ctrl-C, 141 the reader of the output closed its pipe. `submit` exits with the
    code of its job.
    """
    try:
        try:
            _main()
        finally:
            if sys.stdout is not None:  # None if the parent process closed it
                sys.stdout.flush()
    except BrokenPipeError:
        if sys.stdout is None or not _is_deserted(sys.stdout.fileno()):
            raise
        # Discard the output that Python still flushes at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None


def _is_deserted(pipe: int) -> bool:
    """Return whether the reader of a pipe, such as `head`, has closed it."""
    poll = select.poll()
    poll.register(pipe, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _main() -> None:
    try:
        options = parse(sys.argv[1:])
        verb, run = next((v, run) for v, (kind, run) in VERBS.items() if isinstance(options, kind))
        # Doctor connects to Ray in one of its checks; the other three never do.
        if not isinstance(options, Doctor | Similar | Review | Submit):
            _prepare(verb, options)
        run(options)
    except AudioCNNError as error:
        from pipelines.runtime import terminal

        if not terminal.error(str(error)):
            print(f"audiocnn: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt as stop:
        print("audiocnn: stopped" + "".join(f"; {text}" for text in stop.args), file=sys.stderr)
        raise SystemExit(130) from None


_TYPES = tyro.constructors.ConstructorRegistry()


@_TYPES.primitive_rule
def _json_object(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[dict[str, Any]] | None:
    """Return the rule that reads an option of type dict as JSON; None for other types."""
    if info.type_origin is not dict:
        return None

    def read(texts: list[str]) -> dict[str, Any]:
        value = json.loads(texts[0])
        if not isinstance(value, dict):
            raise ValueError('an object is needed, like {"s3": {"anon": true}}')
        return value

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [json.dumps(value)],
    )


def parse(arguments: list[str]) -> Any:
    """Parse a command line. Usage errors, `--help` and `--version` raise SystemExit."""
    if arguments == ["--version"]:
        print(f"audiocnn {audiocnn.__version__}")
        raise SystemExit(0)
    command: list[str] = []
    if arguments[:1] == ["submit"]:
        arguments, command = _without_command(arguments)
    recipe = RECIPES[_recipe(arguments)]()
    kinds = [
        Annotated[kind, tyro.conf.subcommand(name, default=_defaults(kind, recipe))]
        for name, (kind, _) in VERBS.items()
    ]
    union: Any = kinds[0]
    for kind in kinds[1:]:
        union = union | kind
    options = tyro.cli(
        union,
        args=arguments,
        prog="audiocnn",
        description="Train a classifier on labelled audio, look inside it, serve it, and label "
        "buckets with it, on Ray. --version prints the version.",
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
        registry=_TYPES,
    )
    return replace(options, command=tuple(command)) if command else options


def _without_command(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split the arguments of submit: [submit, VERB, own options], and [VERB, options of VERB]."""
    verbs = [at for at, one in enumerate(arguments) if one in VERBS and one != "submit"]
    if not verbs:
        return arguments, []
    own, command = arguments[1 : verbs[0]], arguments[verbs[0] :]
    return ["submit", command[0], *own], command


def _recipe(arguments: list[str]) -> str:
    """Return the recipe that a command line names; its fields are the defaults of other options."""
    chosen = "esc10"
    for argument, following in pairwise([*arguments, ""]):
        name = following if argument == "--recipe" else argument.removeprefix("--recipe=")
        if name != argument and name in RECIPES:
            chosen = name  # the last --recipe counts, as in tyro
    return chosen


def _defaults(kind: type, recipe: Any) -> Any:
    """Return a verb's options with the recipe's fields; required options are tyro.MISSING."""
    values = {
        f.name: tyro.MISSING
        for f in fields(kind)
        if f.default is MISSING and f.default_factory is MISSING
    }
    values |= {f.name: getattr(recipe, f.name) for f in fields(kind) if hasattr(recipe, f.name)}
    return kind(**values)


def _prepare(verb: str, options: Any) -> None:
    from pipelines.runtime import session, terminal

    quiet.divert_native_stderr()
    terminal.about(verb=verb, job=session.job_id())
    if Variable.RAY_ADDRESS.get():
        session.connect()
        session.require_reach(options)


if __name__ == "__main__":
    main()
