"""Object stores of tests: an S3 server, buckets of it, and a proxy that does not always answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

SECRET = "hunter2-secret"
KEY_ID = "HUNTER2KEYID"


def environment(endpoint: str, key_id: str = KEY_ID, secret: str = SECRET) -> dict[str, str]:
    """What obstore finds in the environment."""
    return {
        "AWS_ACCESS_KEY_ID": key_id,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }


class Bucket:
    """A bucket of the S3 server, looked at by another client than the one under test.

    Args:
        endpoint: The server.
        name: Of the bucket, which is made.
        key_id: Who asks.
        secret: Of who asks.
    """

    def __init__(self, endpoint: str, name: str, key_id: str = "any", secret: str = "any") -> None:
        import boto3

        self.endpoint = endpoint
        self.name = name
        self.url = f"s3://{name}/some/prefix"
        self._client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id=key_id,
            aws_secret_access_key=secret,
        )
        self._client.create_bucket(Bucket=name)

    def key(self, url: str) -> str:
        """The key of an object, by its URL."""
        assert url.startswith(f"s3://{self.name}/")
        return url.removeprefix(f"s3://{self.name}/")

    @property
    def urls(self) -> set[str]:
        """Of all objects."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        found = [one["Key"] for page in pages for one in page.get("Contents", ())]
        return {f"s3://{self.name}/{key}" for key in found}

    def read(self, url: str) -> bytes:
        return self._client.get_object(Bucket=self.name, Key=self.key(url))["Body"].read()

    def content_type(self, url: str) -> str:
        return self._client.head_object(Bucket=self.name, Key=self.key(url))["ContentType"]

    def put(self, url: str, content: bytes = b"x") -> None:
        self._client.put_object(Bucket=self.name, Key=self.key(url), Body=content)

    def delete(self, url: str) -> None:
        self._client.delete_object(Bucket=self.name, Key=self.key(url))


Fault = Callable[[str, str], "int | str | None"]


class Proxy:
    """An HTTP server in front of another one, which may answer in its place.

    Attributes:
        fault: Called with the method and the path of each request. What it gives is the status of
            the answer; with 0, the connection is cut within the request; with `cut`, within the
            answer; with `slow`, the answer takes a second; with None, the request goes through.
        requests: Those that came, with what was done with them.
    """

    def __init__(self, endpoint: str) -> None:
        self.fault: Fault = lambda method, path: None
        self.requests: list[tuple[str, str, int | str | None]] = []
        server = urlsplit(endpoint)
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _do(self) -> None:
                found = proxy.fault(self.command, self.path)
                proxy.requests.append((self.command, self.path, found))
                length = int(self.headers.get("Content-Length", 0))
                if found == 0:
                    self.rfile.read(length // 2)
                    self.close_connection = True
                    return
                body = self.rfile.read(length)
                if found == "slow":
                    time.sleep(1)
                if not isinstance(found, int):
                    connection = HTTPConnection(str(server.hostname), server.port)
                    connection.request(self.command, self.path, body, dict(self.headers))
                    answer = connection.getresponse()
                    content = answer.read()
                    self.send_response(answer.status)
                    for name, value in answer.getheaders():
                        if name.lower() not in (
                            "transfer-encoding",
                            "connection",
                            "content-length",
                        ):
                            self.send_header(name, value)
                    size = answer.getheader("Content-Length", "0")
                    self.send_header(
                        "Content-Length", size if self.command == "HEAD" else str(len(content))
                    )
                    connection.close()
                else:
                    content = (
                        b'<?xml version="1.0"?><Error><Code>Refused</Code><Message>Not now</Message>'
                        b"<AWSAccessKeyId>" + KEY_ID.encode() + b"</AWSAccessKeyId></Error>"
                    )
                    self.send_response(found)
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command == "HEAD":
                    return
                if found == "cut" and content:
                    content = content[: len(content) // 2]
                    self.close_connection = True
                self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _do

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
