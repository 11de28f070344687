"""`audiocnn submit`: run another verb as a job of a Ray cluster, and follow its log."""

import asyncio
import logging
import os
import shlex
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import ray.exceptions
import requests
from ray.job_submission import JobStatus, JobSubmissionClient

import audiocnn
from audiocnn.config import Variable
from audiocnn.errors import ConfigError
from pipelines.options import Submit
from pipelines.runtime import terminal
from pipelines.runtime.auth import VARIABLES, token_path

_HERE = "http://127.0.0.1:8265"
_PATIENCE_S = 60.0
"""Seconds for which the job's log is requested again while the cluster does not answer."""
_STOP_S = 60.0


def submit(options: Submit) -> int:
    """Run a command on the cluster. Return the job's exit code, or 0 at once with `detach`.

    Ctrl-C stops the job. Raises ConfigError if the cluster does not answer or refuses the job.
    """
    # Ray logs thirty lines about its upload. Failures are raised as exceptions.
    logging.getLogger("ray").handlers[:] = [logging.NullHandler()]
    logging.getLogger("ray").propagate = False
    address = options.address or os.environ.get("RAY_API_SERVER_ADDRESS") or _HERE
    runtime_env = _runtime_env(options)
    client = _client(address)
    verb = options.command[0]
    with _explained(address):
        job = client.submit_job(
            entrypoint=shlex.join(["python", "-m", "pipelines.cli", *options.command]),
            submission_id=f"audiocnn-{verb}-{uuid.uuid4().hex[:8]}",
            runtime_env=runtime_env,
            metadata={"audiocnn": audiocnn.__version__, "verb": verb},
        )
    terminal.step(f"{verb} is job {job} of {address}")
    if options.detach:
        terminal.say(f"ray job logs --follow {job}; ray job stop {job}")
        return 0
    try:
        asyncio.run(_follow(client, job))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_stop(client, job, options.command)) from None
    return _exit_code(client, address, job)


def _runtime_env(options: Submit) -> dict[str, Any]:
    """Return the job's runtime_env: named environment variables, and this checkout's code.

    Raises ConfigError for a variable that is not set.
    """
    names = [*options.env, *{Variable.SHARED_DISK} & os.environ.keys()]
    if missing := [name for name in names if name not in os.environ]:
        raise ConfigError(f"--env {' '.join(missing)}: not set here")
    runtime_env: dict[str, Any] = {"env_vars": {name: os.environ[name] for name in names}}
    root = Path(audiocnn.__file__).resolve().parents[1]
    if options.code and (root / "pyproject.toml").is_file():
        runtime_env["working_dir"] = str(root)
    return runtime_env


def _client(address: str) -> JobSubmissionClient:
    """Connect to a cluster. Raises ConfigError if it does not answer or requires another token."""
    has_token = any(map(os.environ.get, VARIABLES)) or token_path().is_file()
    if has_token:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        where = urlsplit(address)
        if where.scheme == "http" and where.hostname not in ("127.0.0.1", "localhost", "::1"):
            terminal.warn(f"{address}: the token is sent unencrypted; use a tunnel, or https")
    with _explained(address):
        return JobSubmissionClient(address)


@contextmanager
def _explained(address: str) -> Iterator[None]:
    try:
        yield
    except ray.exceptions.AuthenticationError as error:
        raise ConfigError(
            f"--address {address}: the cluster requires its token: set RAY_AUTH_TOKEN, or "
            "RAY_AUTH_TOKEN_PATH to a file with the token"
        ) from error
    except (ConnectionError, requests.RequestException, RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"--address {address}: {reason}") from error


async def _follow(client: JobSubmissionClient, job: str) -> None:
    """Print the job's log to its end. Raises ConfigError if the cluster stops answering."""
    printed, lost_since = 0, 0.0
    while True:
        seen = 0
        try:
            async for text in client.tail_job_logs(job):
                lost_since = 0.0
                # A repeated request starts at the beginning of the log: skip the printed part.
                new = text[max(0, printed - seen) :]
                seen += len(text)
                printed = max(printed, seen)
                sys.stdout.write(new)
                sys.stdout.flush()
            if client.get_job_status(job).is_terminal():
                return
        except (aiohttp.ClientError, requests.RequestException, OSError, RuntimeError) as error:
            lost_since = lost_since or time.monotonic()
            if time.monotonic() - lost_since > _PATIENCE_S:
                raise ConfigError(
                    f"the cluster does not answer any more ({error}); job {job} may still run: see "
                    f"`ray job logs --follow {job}`"
                ) from error
        await asyncio.sleep(1.0)


def _stop(client: JobSubmissionClient, job: str, command: tuple[str, ...]) -> str:
    """Stop the job. Return the outcome in words."""
    terminal.say(f"stopping job {job}")
    try:
        client.stop_job(job)
        deadline = time.monotonic() + _STOP_S
        while not client.get_job_status(job).is_terminal():
            if time.monotonic() > deadline:
                return f"job {job} has not ended yet"
            time.sleep(0.5)
    except (requests.RequestException, RuntimeError) as error:
        return f"job {job} may still run: the cluster does not answer ({error})"
    again = terminal.same_command("--overwrite" in command)
    return f"job {job} is stopped; run {again} to continue"


def _exit_code(client: JobSubmissionClient, address: str, job: str) -> int:
    with _explained(address):
        info = client.get_job_info(job)
    if info.status == JobStatus.SUCCEEDED:
        return 0
    if info.status == JobStatus.STOPPED:
        terminal.warn(f"job {job} was stopped")
        return 130
    if info.driver_exit_code is None:  # the job ended before its command ran
        terminal.warn(f"job {job} failed: {info.message}")
    return int(info.driver_exit_code or 1)
