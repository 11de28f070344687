"""A SeaweedFS server of our own on loopback: real S3, with keys, in a folder of its own."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import fsspec

KEY, SECRET = "benchmark", "benchmark-secret"
"""Of a server on loopback that lives for one run."""
BUCKET = "bench"
_START_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server."""

    port: int
    pid: int

    @property
    def environment(self) -> dict[str, str]:
        """The standard AWS variables by which a process reaches it."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def upload(self, folder: Path, name: str) -> str:
        """Put a folder's files into the bucket; returns their URI."""
        fs = self._client()
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        keys = [f"{BUCKET}/{name}/{path.relative_to(folder)}" for path in files]
        fs.put([str(path) for path in files], keys, batch_size=16)
        return f"s3://{BUCKET}/{name}"

    def pin(self, cores: set[int]) -> None:
        """Run all threads of the server on these cores alone."""
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), cores)

    def _client(self) -> fsspec.AbstractFileSystem:
        return fsspec.filesystem(
            "s3",
            key=KEY,
            secret=SECRET,
            endpoint_url=f"http://127.0.0.1:{self.port}",
            client_kwargs={"region_name": "us-east-1"},
            skip_instance_cache=True,
        )

    def make_bucket(self) -> None:
        """Make the bucket, as soon as the server answers. Raises TimeoutError."""
        give_up = time.monotonic() + _START_S
        while True:
            try:
                self._client().mkdir(BUCKET)
                return
            except (OSError, ValueError) as error:  # botocore's own are OSErrors in s3fs
                if time.monotonic() > give_up:
                    raise TimeoutError(f"the S3 server did not start: {error}") from error
                time.sleep(0.2)


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """A server with an empty bucket, its data in `folder`; killed at the end."""
    folder.mkdir(parents=True)
    identity = {
        "name": "benchmark",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    keys = folder.parent / f"{folder.name}.json"
    keys.write_text(json.dumps({"identities": [identity]}))
    s3, master, volume, filer, admin = _free_ports(5)
    command = [
        str(Path(sys.executable).with_name("weed")), "mini",
        f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={keys}",
        f"-s3.port={s3}", f"-master.port={master}", f"-volume.port={volume}",
        f"-filer.port={filer}", f"-admin.port={admin}", "-s3.port.iceberg=0", "-s3.port.lance=0",
        "-webdav=false", "-admin.ui=false", "-master.telemetry=false",
        "-s3.autoCreateBucket=false",
    ]  # fmt: skip
    environment = {**os.environ, "GOMEMLIMIT": "256MiB"}
    with (folder.parent / f"{folder.name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        server = Server(port=s3, pid=process.pid)
        try:
            server.make_bucket()
            yield server
        finally:
            process.kill()
            process.wait()


def _free_ports(count: int) -> list[int]:
    """Free ports whose number + 10000, where the server's gRPC listens, is free as well."""
    found: list[int] = []
    port = 20_000 + os.getpid() % 20_000
    while len(found) < count:
        port += 1
        if _is_free(port) and _is_free(port + 10_000):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
