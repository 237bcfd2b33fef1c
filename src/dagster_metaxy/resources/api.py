"""An HTTP API that answers in JSON."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import ConfigDict, Field, PrivateAttr, model_validator

from dagster_metaxy.extras import require

if TYPE_CHECKING:
    import httpx

_AGAIN = (429, 500, 502, 503, 504)
_REPEATABLE = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE")
_LONGEST = 60.0


class ApiError(Exception):
    """The API answered with an error, or with what cannot be read.

    Attributes:
        status: The HTTP status; None where there was no answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message, status)
        self.status = status

    def __str__(self) -> str:
        return self.args[0]


class ApiUnavailable(ApiError, ConnectionError):
    """The API did not answer, or was too busy, after all retries; it may pass."""


class ApiResource(dg.ConfigurableResource):
    """An HTTP API that answers in JSON, by httpx.

    Requests that can be repeated are, where the server is away or too busy. Connections are kept for
    the run, and closed at its end, also where it fails.
    """

    # What does not fit may be a secret.
    model_config = ConfigDict(hide_input_in_errors=True)

    base_url: str = Field(description="What the paths of all requests are below.")
    api_key: str | None = Field(
        default=None,
        repr=False,
        description="Sent with every request, and to no other host.",
        json_schema_extra={"dagster__is_secret": True},
    )
    api_key_header: str = Field(
        default="Authorization",
        description="The header that it is sent in; after the word Bearer in `Authorization`.",
    )
    timeout: float = Field(
        default=30.0,
        gt=0,
        description="Seconds to wait for a connection, and for each part of an answer.",
    )
    retries: int = Field(default=3, description="How often a request is repeated.")
    backoff: float = Field(
        default=0.5,
        ge=0,
        description="Seconds before the first repetition, doubled before each of the next, unless the"
        " server says how long (`Retry-After`); a minute at most.",
    )

    _client: Any = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _check(self) -> ApiResource:
        require("ApiResource", "api", "httpx")
        return self

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Prepare connections; none is made before it is asked for."""
        import httpx

        url = httpx.URL(self.base_url)
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError("base_url must begin with https:// or http:// and a host")
        if url.userinfo or url.query:
            raise ValueError("base_url must hold no user, password or parameters: use api_key")
        headers = {"Accept": "application/json"}
        if self.api_key:
            bearer = "Bearer " if self.api_key_header.lower() == "authorization" else ""
            headers[self.api_key_header] = f"{bearer}{self.api_key}"
        self._client = httpx.Client(base_url=url, headers=headers, timeout=self.timeout)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Close all connections."""
        if self._client is not None:
            self._client.close()

    @property
    def client(self) -> httpx.Client:
        """httpx's client, while a run goes on."""
        if self._client is None:
            raise RuntimeError(
                "an ApiResource is connected inside a run; elsewhere, enter"
                " `with resource.process_config_and_initialize_cm() as api:`"
            )
        return self._client

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """The JSON that is at a path.

        Args:
            path: Below `base_url`.
            params: Of the query.

        Raises:
            ApiUnavailable: No answer, or too busy, after all retries.
            ApiError: Another error, or no JSON.
        """
        return self._json(self.request("GET", path, params=params))

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request; GET, HEAD, OPTIONS, PUT and DELETE are repeated where that may help.

        Args:
            method: Of HTTP.
            path: Below `base_url`.
            options: As for `httpx.Client.request`: `params`, `json`, `content`, `headers`.

        Raises:
            ApiUnavailable: No answer, or too busy, after all retries.
            ApiError: The answer is an error, or leads elsewhere.
            ValueError: The path is an URL of another host.
        """
        import httpx

        client, method = self.client, method.upper()
        request = client.build_request(method, path, **options)
        if _origin(request.url) != _origin(client.base_url):
            raise ValueError(
                f"{_origin(request.url)} is not {_origin(client.base_url)}: the key goes to no other"
                " host"
            )
        what = f"{method} {request.url.copy_with(query=None, fragment=None)}"
        attempts = 1 + (max(self.retries, 0) if method in _REPEATABLE else 0)
        for attempt in range(attempts):
            last, wait = attempt == attempts - 1, self.backoff * 2**attempt
            tries = f" ({attempts} attempts)" if attempts > 1 else ""
            try:
                response = client.send(request)
            except httpx.TransportError as error:
                if last:
                    said = f"{type(error).__name__}: {self._told(str(error))}"
                    raise ApiUnavailable(f"{what}: no answer{tries}: {said}") from None
            else:
                if response.is_success:
                    return response
                status = response.status_code
                if status not in _AGAIN or last:
                    kind = ApiUnavailable if status in _AGAIN else ApiError
                    tries = tries if status in _AGAIN else ""
                    raise kind(f"{what}: {self._answer(response)}{tries}", status)
                wait = _asked_to_wait(response) or wait
            # Not all at once, where many wait for the same server.
            time.sleep(min(wait, _LONGEST) * random.uniform(1, 1.25))
        raise AssertionError("unreachable")

    def items(
        self,
        path: str,
        params: Mapping[str, Any] | None = None,
        *,
        field: str | None = None,
        next_field: str | None = None,
        page_param: str | None = None,
        first_page: int = 1,
    ) -> Iterator[Any]:
        """All items of a list that comes in pages, of which the next is asked for when it is needed.

        The next page is where the header `Link` says (`rel="next"`), or where `next_field` does; or
        pages are counted, by `page_param`, until one is empty.

        Args:
            path: Below `base_url`.
            params: Of the query of the first page.
            field: Where in the JSON the list is; the JSON is a list if left out.
            next_field: Where in the JSON the URL of the next page is.
            page_param: The parameter of the query that is the number of the page.
            first_page: The number of the first page.

        Raises:
            ApiUnavailable: No answer, or too busy, after all retries.
            ApiError: Another error, there is no list, or the pages go round in a circle.
            ValueError: The next page is on another host.
        """
        number, url, query = first_page, path, dict(params or {})
        seen = {url}
        while True:
            asked = {**query, page_param: number} if page_param else query
            # Given empty parameters, httpx would take away those of the URL.
            response = self.request("GET", url, **({"params": asked} if asked else {}))
            body = self._json(response)
            found = _at(body, field)
            if not isinstance(found, list):
                where = f"at {field!r}" if field else "in the answer"
                raise ApiError(f"GET {_shown(response)}: there is no list {where}")
            yield from found
            if page_param:
                if not found:
                    return
                number += 1
                continue
            after = (
                _at(body, next_field) if next_field else response.links.get("next", {}).get("url")
            )
            if not after:
                return
            url, query = str(response.url.join(str(after))), {}
            if url in seen:
                raise ApiError(f"GET {_shown(response)}: its next page is one that has been")
            seen.add(url)

    def _json(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError:
            kind = response.headers.get("content-type", "no content type")
            raise ApiError(
                f"GET {_shown(response)}: the answer is no JSON ({kind})", response.status_code
            ) from None

    def _answer(self, response: httpx.Response) -> str:
        """Status and text of an error, in short."""
        said = f"{response.status_code} {response.reason_phrase}"
        if response.is_redirect:
            there = response.url.join(response.headers["location"]).copy_with(query=None)
            return f"{said}: it is at {self._told(str(there))} now"
        text = " ".join(response.text.split())
        return self._told(f"{said}: {text[:200]}" if text else said)

    def _told(self, text: str) -> str:
        return text.replace(self.api_key, "***") if self.api_key else text


def _shown(response: httpx.Response) -> str:
    """Of its URL what is no parameter, which may be secret."""
    return str(response.url.copy_with(query=None, fragment=None))


def _origin(url: httpx.URL) -> str:
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    return f"{url.scheme}://{url.host}:{port}"


def _at(body: Any, field: str | None) -> Any:
    """What is at a field of JSON; `a.b` is `b` in `a`."""
    for name in field.split(".") if field else ():
        body = body.get(name) if isinstance(body, dict) else None
    return body


def _asked_to_wait(response: httpx.Response) -> float | None:
    """The seconds that `Retry-After` asks for, in seconds or as a date."""
    value = response.headers.get("retry-after", "")
    if value.isdecimal():
        return float(value)
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0)
    except (TypeError, ValueError):
        return None
