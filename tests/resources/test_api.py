"""ApiResource against a real server that is slow, busy, gone, and gives pages."""

from __future__ import annotations

import json
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import dagster as dg
import pytest

from dagster_metaxy.resources import ApiError, ApiResource, ApiUnavailable

KEY = "hunter2-key"


class Server:
    """Answers by `answers`, one of which is taken for each request to its path."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.times: list[float] = []
        self.routes: dict[str, Callable[[dict[str, str]], Any]] = {}
        self.connections = 0
        self.open = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                outer.connections += 1
                outer.open += 1

            def finish(self) -> None:
                super().finish()
                outer.open -= 1

            def answer(self) -> None:
                parts = urlsplit(self.path)
                query = {name: found[0] for name, found in parse_qs(parts.query).items()}
                self.rfile.read(int(self.headers.get("content-length") or 0))
                outer.asked.append((self.command, self.path, dict(self.headers)))
                outer.times.append(time.monotonic())
                status, headers, body = outer.routes[parts.path](query)
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                headers = {"content-type": "application/json", **headers}
                for name, value in {**headers, "content-length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = answer

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def route(self, path: str, *answers: Any) -> None:
        """Answers in turn, the last one again and again: a body, or status, headers and body."""
        left = [a if isinstance(a, tuple) else (200, {}, a) for a in answers]
        self.routes[f"/v1{path}"] = lambda query: left.pop(0) if len(left) > 1 else left[0]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def api(server: Server, **options: Any) -> Any:
    options = {"base_url": server.url, "api_key": KEY, "backoff": 0.01, **options}
    return ApiResource(**options).process_config_and_initialize_cm()


def told(error: pytest.ExceptionInfo[BaseException]) -> str:
    """The text of an error and of all that it came from."""
    texts, found = [], error.value
    while found is not None:
        texts += [str(found), repr(found)]
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)  # type: ignore[assignment]
    return "\n".join(texts)


def test_json_below_the_base_with_the_key(server: Server) -> None:
    server.route("/clips/1", {"name": "a"})
    with api(server) as opened:
        assert opened.get("/clips/1", {"full": True}) == {"name": "a"}
        assert opened.get("clips/1") == {"name": "a"}
    (first, second) = server.asked
    assert first[:2] == ("GET", "/v1/clips/1?full=true")
    assert second[:2] == ("GET", "/v1/clips/1")
    assert first[2]["Authorization"] == f"Bearer {KEY}"


def test_a_header_of_its_own(server: Server) -> None:
    server.route("/x", 1)
    with api(server, api_key_header="X-Api-Key") as opened:
        opened.get("x")
    assert server.asked[0][2]["X-Api-Key"] == KEY
    assert "Authorization" not in server.asked[0][2]


class TestRetries:
    @pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
    def test_busy_then_well(self, server: Server, status: int) -> None:
        server.route("/x", (status, {}, "busy"), (status, {}, "busy"), {"a": 1})
        with api(server) as opened:
            assert opened.get("x") == {"a": 1}
        assert len(server.asked) == 3

    def test_busy_for_ever(self, server: Server) -> None:
        server.route("/x", (503, {}, f"come back, {KEY}"))
        with api(server, retries=2) as opened, pytest.raises(ApiUnavailable) as caught:
            opened.get("x", {"token": "in-the-query"})
        assert len(server.asked) == 3
        assert str(caught.value) == (
            f'GET {server.url}/x: 503 Service Unavailable: "come back, ***" (3 attempts)'
        )
        assert caught.value.status == 503
        assert isinstance(caught.value, ConnectionError)
        assert KEY not in told(caught)
        assert "in-the-query" not in told(caught)

    def test_an_error_that_stays(self, server: Server) -> None:
        server.route("/x", (404, {}, {"detail": "no clip"}))
        with api(server) as opened, pytest.raises(ApiError) as caught:
            opened.get("x")
        assert len(server.asked) == 1
        assert str(caught.value) == f'GET {server.url}/x: 404 Not Found: {{"detail": "no clip"}}'
        assert not isinstance(caught.value, ApiUnavailable)

    def test_what_must_not_be_repeated(self, server: Server) -> None:
        server.route("/x", (503, {}, "busy"), {"a": 1})
        with api(server) as opened:
            with pytest.raises(ApiUnavailable, match="503"):
                opened.request("POST", "x", json={})
            assert opened.request("PUT", "x", json={}).json() == {"a": 1}

    @pytest.mark.parametrize("form", ["seconds", "date"])
    def test_the_server_says_when(self, server: Server, form: str) -> None:
        def busy(query: dict[str, str]) -> Any:
            if len(server.asked) > 1:
                return 200, {}, 1
            value = "1" if form == "seconds" else formatdate(time.time() + 3, usegmt=True)
            return 429, {"Retry-After": value}, ""

        server.routes["/v1/x"] = busy
        with api(server) as opened:
            assert opened.get("x") == 1
        # At least, and not the hundredth of a second of the backoff: a date is of whole seconds.
        assert server.times[1] - server.times[0] >= 0.5

    def test_too_slow(self, server: Server) -> None:
        free = threading.Event()

        def slow(query: dict[str, str]) -> Any:
            free.wait(30)
            return 200, {}, 1

        server.routes["/v1/x"] = slow
        with api(server, timeout=0.2, retries=1) as opened, pytest.raises(ApiUnavailable) as caught:
            opened.get("x")
        free.set()
        assert str(caught.value).startswith(
            f"GET {server.url}/x: no answer (2 attempts): ReadTimeout"
        )
        assert caught.value.status is None

    def test_nobody_there(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # and does not listen
            url = f"http://127.0.0.1:{taken.getsockname()[1]}"
            resource = ApiResource(base_url=url, retries=1, backoff=0)
            message = r"no answer \(2 attempts\): ConnectError"
            with (
                resource.process_config_and_initialize_cm() as opened,
                pytest.raises(ApiUnavailable, match=message),
            ):
                opened.get("x")


class TestPages:
    def test_by_link(self, server: Server) -> None:
        server.routes["/v1/clips"] = lambda query: (
            200,
            {} if query.get("after") == "4" else {
                "Link": f'</v1/clips?after={int(query.get("after", 0)) + 2}>; rel="next", </>; rel="first"'
            },
            [int(query.get("after", 0)) + 1, int(query.get("after", 0)) + 2],
        )  # fmt: skip
        with api(server) as opened:
            assert list(opened.items("clips", {"size": 2})) == [1, 2, 3, 4, 5, 6]
        assert [path for _, path, _ in server.asked] == [
            "/v1/clips?size=2", "/v1/clips?after=2", "/v1/clips?after=4",
        ]  # fmt: skip

    def test_by_page_number(self, server: Server) -> None:
        pages = {"1": [1, 2], "2": [3]}
        server.routes["/v1/clips"] = lambda query: (
            200, {}, {"data": {"items": pages.get(query["page"], [])}},
        )  # fmt: skip
        with api(server) as opened:
            found = opened.items("clips", {"size": 2}, field="data.items", page_param="page")
            assert list(found) == [1, 2, 3]
        assert [path for _, path, _ in server.asked] == [
            f"/v1/clips?size=2&page={n}" for n in (1, 2, 3)
        ]

    @pytest.mark.parametrize("last", [None, ""])
    def test_by_a_field(self, server: Server, last: Any) -> None:
        server.route(
            "/clips",
            {"results": [1], "next": f"{server.url}/clips?cursor=b"},
            {"results": [2], "next": "?cursor=c"},
            {"results": [], "next": last},
        )
        with api(server) as opened:
            assert list(opened.items("clips", field="results", next_field="next")) == [1, 2]
        assert [path for _, path, _ in server.asked] == [
            "/v1/clips", "/v1/clips?cursor=b", "/v1/clips?cursor=c",
        ]  # fmt: skip

    def test_the_next_page_is_asked_for_when_it_is_needed(self, server: Server) -> None:
        server.route("/clips", (200, {"Link": '</v1/clips?p=2>; rel="next"'}, [1, 2]))
        with api(server) as opened:
            items = opened.items("clips")
            assert [next(items), next(items)] == [1, 2]
        assert len(server.asked) == 1

    def test_round_in_a_circle(self, server: Server) -> None:
        server.route("/clips", (200, {"Link": '</v1/clips?p=2>; rel="next"'}, [1]))
        with api(server) as opened, pytest.raises(ApiError, match="its next page is one that has"):
            list(opened.items("clips"))
        assert len(server.asked) == 2

    def test_no_list(self, server: Server) -> None:
        server.route("/clips", {"results": [1]})
        with api(server) as opened:
            with pytest.raises(ApiError, match="/clips: there is no list in the answer"):
                list(opened.items("clips"))
            with pytest.raises(ApiError, match="/clips: there is no list at 'items'"):
                list(opened.items("clips", field="items"))


class TestTheKeyGoesToNoOtherHost:
    def test_next_page(self, server: Server) -> None:
        other = Server()
        other.route("/clips", [2])
        server.route("/clips", {"items": [1], "next": f"{other.url}/clips"})
        try:
            with api(server) as opened, pytest.raises(ValueError, match="no other host"):
                list(opened.items("clips", field="items", next_field="next"))
        finally:
            other.close()
        assert other.asked == []

    def test_redirect(self, server: Server) -> None:
        other = Server()
        other.route("/x", 1)
        server.route("/x", (302, {"location": f"{other.url}/x?k={KEY}"}, b""))
        try:
            with api(server) as opened, pytest.raises(ApiError) as caught:
                opened.get("x")
        finally:
            other.close()
        assert str(caught.value) == f"GET {server.url}/x: 302 Found: it is at {other.url}/x now"
        assert other.asked == []

    def test_a_path_that_is_a_url(self, server: Server) -> None:
        with api(server) as opened, pytest.raises(ValueError, match="http://elsewhere:80 is not"):
            opened.get("http://elsewhere/x")


def test_no_json(server: Server) -> None:
    server.route("/x", (200, {"content-type": "text/html"}, b"<html>"))
    with (
        api(server) as opened,
        pytest.raises(ApiError, match=r"the answer is no JSON \(text/html\)"),
    ):
        opened.get("x")


@pytest.mark.parametrize("fails", [False, True])
def test_connections_are_kept_for_the_run_and_closed_with_it(server: Server, fails: bool) -> None:
    server.route("/x", 1)
    seen: list[tuple[int, int]] = []

    @dg.asset
    def asked(api: ApiResource) -> None:
        for _ in range(3):
            api.get("x")
        seen.append((server.connections, server.open))
        if fails:
            raise ValueError("of the asset")

    resource = ApiResource(base_url=server.url)
    result = dg.materialize([asked], resources={"api": resource}, raise_on_error=False)
    assert result.success is not fails
    assert seen == [(1, 1)]
    for _ in range(1000):  # the server hears of it a little later
        if not server.open:
            break
        time.sleep(0.01)
    assert (server.connections, server.open) == (1, 0)


def test_it_shows_no_key(server: Server) -> None:
    with api(server) as opened:
        assert KEY not in repr(opened)
        assert KEY not in str(opened)
        assert KEY not in repr(opened.client)


def test_outside_of_a_run(server: Server) -> None:
    with pytest.raises(RuntimeError, match="process_config_and_initialize_cm"):
        ApiResource(base_url=server.url).get("x")


def test_errors_go_to_another_process() -> None:
    copy = pickle.loads(pickle.dumps(ApiUnavailable("gone", 503)))
    assert (str(copy), copy.status) == ("gone", 503)
