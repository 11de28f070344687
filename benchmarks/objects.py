"""An S3 server that only lists: the name of a bucket gives its number of invented recordings.

It is its own process, `python -m benchmarks.objects`. It answers `list_objects_v2` with pages of
1,000 keys, and nothing else. It would take a day to fill a real server.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from benchmarks.harness import ROOT
from benchmarks.seaweed import KEY, SECRET

_PAGE = 1_000
_ENTRY = (
    "<Contents><Key>site-{site:03d}/2026/recorder-{site:03d}/{index:09d}.flac</Key>"
    "<LastModified>2026-11-25T00:00:00.000Z</LastModified><ETag>&#34;{index:032x}&#34;</ETag>"
    "<Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
)


def bucket(objects: int) -> str:
    """Return the URI of a bucket with this number of objects."""
    return f"s3://objects-{objects}"


@contextmanager
def server() -> Iterator[dict[str, str]]:
    """Run a server within a block; yield the environment variables of its clients."""
    command = [sys.executable, "-m", "benchmarks.objects"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None  # noqa: S101
        port = int(process.stdout.readline())
        yield {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    finally:
        process.kill()
        process.communicate()


def _page(objects: int, start: int) -> str:
    end = min(start + _PAGE, objects)
    entries = "".join(
        _ENTRY.format(site=index // 10_000, index=index, size=400_000 + index % 100_000)
        for index in range(start, end)
    )
    more = f"<NextContinuationToken>{end}</NextContinuationToken>" if end < objects else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<KeyCount>{end - start}</KeyCount><MaxKeys>{_PAGE}</MaxKeys>"
        f"<IsTruncated>{str(bool(more)).lower()}</IsTruncated>{more}{entries}</ListBucketResult>"
    )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise the body waits until the client confirms the head

    def do_GET(self) -> None:
        """Answer with a page, or with 404."""
        url = urlsplit(self.path)
        name, asked = url.path.strip("/"), parse_qs(url.query)
        listing = "list-type" in asked and name.startswith("objects-")
        start = int(asked.get("continuation-token", ["0"])[0])
        body = _page(int(name.removeprefix("objects-")), start).encode() if listing else b""
        self.send_response(200 if listing else 404)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


if __name__ == "__main__":
    listening = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    print(listening.server_address[1], flush=True)
    listening.serve_forever()
