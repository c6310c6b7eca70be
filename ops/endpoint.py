"""An OpenAI-compatible endpoint as a client sees it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any, Final, cast

import urllib3

from ops.errors import FindingsError, MissingError

_PROMPT: Final = "Reply with one short sentence: which city is the capital of France?"
_MOST_TOKENS: Final = 64
_CONNECT_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One answer of a model."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float


class Endpoint:
    """A base URL that ends with `/v1`, and the key that it asks for, if any."""

    def __init__(self, url: str, key: str | None, *, timeout_seconds: float) -> None:
        self.url = url.rstrip("/")
        self._key = key
        timeout = urllib3.Timeout(connect=_CONNECT_SECONDS, read=timeout_seconds)
        self._pool = urllib3.PoolManager(retries=False, timeout=timeout)

    def models(self) -> tuple[str, ...]:
        """Names of the models that it serves."""
        status, body = self._call("GET", "/models", None, self._key)
        if status != 200:
            raise _refused(self.url, status, body)
        return tuple(str(item["id"]) for item in body.get("data", ()))

    def refuses_strangers(self, model: str) -> bool:
        """Whether a completion without a key is answered with 401 (or 403)."""
        status, _ = self._call("POST", "/chat/completions", _request(model, 1), None)
        return status in {401, 403}

    def complete(self, model: str) -> Completion:
        """One chat completion.

        Raises:
            MissingError: nobody answers.
            FindingsError: the answer is a refusal, or no completion.
        """
        began = time.monotonic()
        status, body = self._call("POST", "/chat/completions", _request(model, _MOST_TOKENS), self._key)
        seconds = time.monotonic() - began
        if status != 200:
            raise _refused(self.url, status, body)
        try:
            message = body["choices"][0]["message"]
            # A reasoning model may spend all its tokens on thoughts.
            text = message.get("content") or message.get("reasoning_content") or message.get("reasoning") or ""
            usage = body["usage"]
            done = Completion(
                text=str(text),
                prompt_tokens=int(usage["prompt_tokens"]),
                completion_tokens=int(usage["completion_tokens"]),
                seconds=round(seconds, 3),
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise FindingsError(f"{self.url} answered no chat completion ({error!r})") from None
        if not done.text.strip() or done.completion_tokens < 1:
            raise FindingsError(
                f"{self.url} answered an empty completion", help="look at the engine's log; the weights may be broken"
            )
        return done

    def _call(self, method: str, path: str, body: object, key: str | None) -> tuple[int, dict[str, Any]]:
        headers = {"Accept": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        content = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            content = json.dumps(body).encode()
        try:
            answer = self._pool.request(method, self.url + path, headers=headers, body=content)
        except urllib3.exceptions.HTTPError as error:
            raise MissingError(
                f"{self.url} does not answer: {error}", help="`python -m ops wait` tells whether it is ready"
            ) from None
        try:
            told: Any = json.loads(answer.data)
        except ValueError:
            told = {"error": answer.data[:200].decode(errors="replace")}
        return answer.status, cast("dict[str, Any]", told) if isinstance(told, dict) else {"error": told}


def _request(model: str, tokens: int) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": _PROMPT}],
        "max_tokens": tokens,
        "temperature": 0,
    }


def _refused(url: str, status: int, body: dict[str, Any]) -> FindingsError:
    told = body.get("error", body.get("message", ""))
    text = told.get("message", "") if isinstance(told, dict) else told  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    hints = {
        401: "the key is not the one that the engine was started with: restart its pods after a new key",
        404: "the model's name or the URL is wrong; the URL ends with /v1",
        503: "it is not ready: `python -m ops wait`",
    }
    return FindingsError(f"{url} answered HTTP {status}: {str(text)[:200]}", help=hints.get(status))  # pyright: ignore[reportUnknownArgumentType]
