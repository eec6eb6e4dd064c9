"""Local servers: an S3-compatible store, a web server, and a proxy that injects faults.

Requests and bytes are counted, and faults are chosen by a seeded random generator.
"""

import http.client
import logging
import random
import socket
import struct
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

FAULTS = ("500", "503", "reset", "reset after", "short", "stall")
"""With `reset after` the server carries out the request, but the answer is lost."""
_HOP = {"connection", "transfer-encoding", "content-length", "date", "server"}


@dataclass
class Traffic:
    """Requests to a server, and injected faults."""

    requests: list = field(default_factory=list)
    """(method, path, range or None, bytes of the answer) in order of arrival."""
    injected: Counter = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, *request):
        with self.lock:
            self.requests.append(request)

    def ranges(self, part=""):
        """Return the bytes of each answer to a GET of a range, for paths with `part`."""
        return [n for method, path, span, n in self.requests
                if method == "GET" and span and part in path]  # fmt: skip


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        """Ignore clients that have disconnected."""


@contextmanager
def served(handler):
    """Serve on a free port of this machine; yield the address."""
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass


@contextmanager
def web_server(folder, ranges=True, head=None, tags=True):
    """Serve the files of `folder`, also as buckets of their names; yield address and traffic.

    `head` is the status of answers to HEAD; without `tags` no ETag is sent.
    """
    traffic = Traffic()

    class Handler(_Handler):
        def do_HEAD(self):
            if head is None:
                return self.do_GET()
            self.send_response(head)
            self.send_header("Content-Length", "0")
            self.end_headers()
            traffic.add("HEAD", self.path, None, 0)

        def do_GET(self):
            path = Path(folder, unquote(self.path).lstrip("/"))
            span = self.headers.get("Range") if ranges else None
            if not path.is_file():
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                traffic.add(self.command, self.path, span, 0)
                return
            status = path.stat()
            tag = f'"{status.st_size:x}-{status.st_mtime_ns:x}"'
            start, stop = 0, status.st_size
            if span:
                first, _, last = span.removeprefix("bytes=").partition("-")
                if first:
                    start, stop = int(first), min(stop, int(last) + 1 if last else stop)
                else:  # the number of bytes from the end
                    start = max(0, stop - int(last))
            wrong = self.headers.get("If-Match", tag) != tag
            self.send_response(412 if wrong else 206 if span else 200)
            if wrong:
                start = stop = 0
            elif span:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{status.st_size}")
            if tags:
                self.send_header("ETag", tag)
            self.send_header("Last-Modified", self.date_time_string(int(status.st_mtime)))
            self.send_header("Content-Length", str(stop - start))
            self.end_headers()
            if self.command == "HEAD":
                traffic.add("HEAD", self.path, span, 0)
                return
            traffic.add("GET", self.path, span, stop - start)  # before the client continues
            with open(path, "rb") as file:
                file.seek(start)
                self.wfile.write(file.read(stop - start))

    with served(Handler) as address:
        yield address, traffic


@dataclass
class Faults:
    """The faults to inject: each request fails with probability `chance`, up to `limit` times."""

    chance: float = 0.0
    kinds: tuple = FAULTS
    seed: int = 0
    limit: int = 10**9

    def __post_init__(self):
        self.random = random.Random(self.seed)

    def start(self, chance, kinds=FAULTS, limit=10**9, seed=0):
        """Start to inject faults."""
        self.random = random.Random(seed)
        self.chance, self.kinds, self.limit = chance, kinds, limit

    def stop(self):
        self.chance = 0.0

    def next(self, traffic):
        with traffic.lock:
            if traffic.injected.total() >= self.limit or self.random.random() >= self.chance:
                return None
            kind = self.random.choice(self.kinds)
            traffic.injected[kind] += 1
            return kind


@contextmanager
def proxy(upstream, faults=None):
    """Forward requests to `upstream` and let some fail; yield address, traffic, faults."""
    traffic, faults = Traffic(), faults or Faults()
    host = upstream.removeprefix("http://")
    quiet = threading.Event()  # set at the end, for requests that stall

    class Handler(_Handler):
        def _answer(self, status, headers, body, sent=None):
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in _HOP:
                    self.send_header(name, value)
            length = {name.lower(): value for name, value in headers}.get("content-length", 0)
            # HEAD reports the length of a body that is not sent
            self.send_header("Content-Length", length if self.command == "HEAD" else len(body))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body if sent is None else body[:sent])

        def _reset(self):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True

        def _pass(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            kind = faults.next(traffic)
            span = self.headers.get("Range")
            if kind in ("403", "500", "503"):
                traffic.add(self.command, self.path, span, 0)
                return self._answer(int(kind), [], b"<Error/>")
            if kind == "stall":
                traffic.add(self.command, self.path, span, 0)
                quiet.wait(20)
                return self._reset()
            if kind == "reset":
                traffic.add(self.command, self.path, span, 0)
                return self._reset()
            link = http.client.HTTPConnection(host, timeout=60)
            try:
                link.request(self.command, self.path, body, dict(self.headers))
                answer = link.getresponse()
                data = answer.read()
            finally:
                link.close()
            if kind == "reset after":
                traffic.add(self.command, self.path, span, 0)
                return self._reset()
            if kind == "short" and data:
                half = len(data) // 2
                traffic.add(self.command, self.path, span, half)
                self.close_connection = True
                return self._answer(answer.status, answer.getheaders(), data, half)
            traffic.add(self.command, self.path, span, len(data))
            return self._answer(answer.status, answer.getheaders(), data)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass

    with served(Handler) as address:
        try:
            yield address, traffic, faults
        finally:
            quiet.set()


BUCKET = "slides"
SECRET = "a-secret-that-nobody-may-see"


@contextmanager
def bucket_server():
    """Serve an S3-compatible store with one bucket, BUCKET; yield its address and a client."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=address,
        aws_access_key_id="testing",
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=BUCKET)
    try:
        yield address, client
    finally:
        client.close()
        server.stop()


def environment(address):
    """Return the environment variables for the buckets at `address`."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
    }
