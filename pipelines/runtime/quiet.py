"""Keep messages of Ray, and of the C libraries that it uses, out of the terminal."""

import logging
import os
import sys
import tempfile
import warnings


def quiet_ray() -> None:
    """Leave Ray's messages to its log files.

    `log_to_driver` and `logging_level` do not stop all of them: ray.data has a handler of its own,
    and the function that prints messages of the raylet checks no level.
    """
    import ray._private.worker
    from ray._private.log import PlainRayHandler
    from ray.util.annotations import RayDeprecationWarning

    for name in ("ray", "ray.data", "ray.serve"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [h for h in logger.handlers if not isinstance(h, PlainRayHandler)]
        logger.addHandler(logging.NullHandler())
    if hasattr(ray._private.worker, "print_to_stdstream"):
        ray._private.worker.print_to_stdstream = lambda *args, **kwargs: None
    warnings.filterwarnings("ignore", category=RayDeprecationWarning)
    warnings.filterwarnings("ignore", module=r"ray(\.|$)")


def divert_native_stderr() -> None:
    """Send the output of native code on file descriptor 2 to a log file; Python's stderr stays.

    No setting stops Ray's core from writing there. Only the command line calls this, because it
    changes the whole process.
    """
    sys.stderr.flush()
    real = os.dup(2)
    log = _open_native_log()
    os.dup2(log, 2)
    os.close(log)
    sys.stderr = os.fdopen(real, "w", buffering=1, encoding="utf-8", errors="backslashreplace")


def _open_native_log() -> int:
    """Open a log file in a private folder of this user, or os.devnull; return the descriptor."""
    folder = os.path.join(tempfile.gettempdir(), f"audiocnn-{os.getuid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        return os.open(os.path.join(folder, "native.log"), flags, 0o600)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)
