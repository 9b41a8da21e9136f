"""vLLM's OpenAI server as an engine: one or several behind URLs, on this machine or elsewhere.

All goes through `/v1/completions`: it takes prompts as token ids, writes token ids, and with vLLM's field
`logprob_token_ids` gives exact full-vocabulary log-probabilities of up to 128 listed tokens. One request
holds all beams of a user. What vLLM spreads over GPUs and machines behind a URL is its own affair.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from transformers import AutoConfig

from gream.decoding.async_backend import AsyncBackend, together
from gream.decoding.completions import PLAIN, Choice, read_completion, read_models, scoring
from gream.decoding.replicas import Replicas, ServerFailed
from gream.errors import InputError
from gream.semantic_ids.layout import Names

if TYPE_CHECKING:
    import httpx2

KEY_VARIABLE = (
    "VLLM_API_KEY"  # vLLM's own name; OPENAI_API_KEY may hold a secret that is none of the server's
)
_PROMPTS = 128  # of one request; vLLM takes 1,024, and parts can be worked on by several of its front ends
_SHOWN = 300  # characters of a server's own words in a message


@dataclass(frozen=True)
class Served:
    """The model that a server must serve, as far as a server can be asked about it."""

    folder: Path
    vocab_size: int
    text: str  # some item tokens,
    tokens: list[int]  # and their ids


def connect(urls: str, served: Served) -> AsyncBackend:
    """Use vLLM servers of one model, after a check that they serve it.

    The key, if the servers want one, is taken from the environment variable `VLLM_API_KEY`.

    Args:
        urls: base URLs with commas between, with or without `/v1`.
        served: the model.

    Raises:
        InputError: the extra is not installed, a URL cannot be used, or no server answers or one serves
            another model.
    """
    engine = Replicas([OpenAIServer(url, served) for url in base_urls(urls)])
    backend = AsyncBackend(engine)
    try:
        backend.run(engine.open)
    except BaseException:
        backend.close()
        raise
    return backend


def served_by(folder: Path, tokenizer: Any, names: Names) -> Served:
    """Tell what a server of a model folder must say; the folder's weights are not needed here."""
    spelled = names.layout.tokens()
    text = spelled[0] + spelled[-1]
    tokens = tokenizer.encode(text, add_special_tokens=False)
    config = AutoConfig.from_pretrained(folder).get_text_config()
    return Served(folder, config.vocab_size, text, tokens)


def base_urls(urls: str) -> list[str]:
    """Split and check what a user gave as URLs; `/v1` at the end goes.

    Raises:
        InputError: no URL, one that cannot be used, or one twice.
    """
    given = [url.strip() for url in urls.split(",") if url.strip()]
    if not given:
        raise InputError("The engine openai needs --url; give the URLs of vLLM servers with commas between.")
    bases = [url.rstrip("/").removesuffix("/v1") for url in given]
    for url in bases:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise InputError(f"url holds {url!r}; give URLs such as http://127.0.0.1:8001, commas between.")
        if parts.username or parts.password:
            raise InputError(f"A URL holds a password; put the key into {KEY_VARIABLE} and leave it out.")
    if len(set(bases)) < len(bases):
        raise InputError(f"url holds the same server twice: {urls}; give each once.")
    return bases


class OpenAIServer:
    """One vLLM OpenAI server, see `gream.decoding.replicas.Server`."""

    def __init__(self, url: str, served: Served) -> None:
        """Prepare connections; none is made yet.

        Raises:
            InputError: the extra is not installed.
        """
        try:
            import httpx2
        except ImportError as error:
            raise InputError(
                f"The engine openai needs httpx2, which cannot be imported ({error}); "
                "run `pip install 'gream[serve]'`."
            ) from error
        self.url = url
        self._served = served
        self._model = served.folder.name
        key = os.environ.get(KEY_VARIABLE, "")
        self._client = httpx2.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(120.0, connect=5.0, pool=None),
            # vLLM closes connections after 5 idle seconds: closed before, none is lost in the middle of that.
            limits=httpx2.Limits(max_connections=None, keepalive_expiry=2.0),
            trust_env=False,  # the key goes to this server and nowhere else, not through a proxy
        )

    async def check(self) -> None:
        """Make sure that the right model is served, see `Server.check`."""
        served = self._served
        self._model = await self._served_name()
        probe = {"prompt": served.text, "add_special_tokens": False, "return_token_ids": True}
        last = served.vocab_size - 1
        found = await self._complete({**probe, **scoring([last])})
        if found[0].prompt_token_ids != served.tokens:
            raise InputError(
                f"{self.url} reads the names of items as other tokens than {served.folder}; "
                "serve the model of this very run."
            )
        if max(found[0].logps([last])) > 0:
            raise InputError(f"{self.url} gives logits; start it without --logprobs-mode.")
        try:
            await self._complete({**probe, **scoring([last + 1])})
        except InputError:
            return
        raise InputError(
            f"{self.url} serves a larger vocabulary than the {served.vocab_size} tokens of {served.folder}; "
            "serve the model of this very run."
        )

    async def write(
        self, prompt: list[int], *, seed: int, stop: int, max_tokens: int, temperature: float
    ) -> AsyncGenerator[list[int], None]:
        """Write a text and give its tokens as they come, see `AsyncEngine.write`."""
        import httpx2

        body = {
            **PLAIN,
            "model": self._model,
            "prompt": prompt,
            "seed": seed,
            "stop_token_ids": [stop],
            "max_tokens": max_tokens,
            "temperature": temperature,
            "stream": True,
            "return_token_ids": True,
        }
        try:
            async with self._client.stream("POST", "/v1/completions", json=body) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise self._refusal(response)
                async for line in response.aiter_lines():
                    if line == "data: [DONE]":
                        return
                    if line.startswith("data: "):
                        yield read_completion(line.removeprefix("data: ").encode())[0].token_ids or []
        except httpx2.HTTPError as error:
            raise _failed(error) from error
        raise ServerFailed("the text broke off")

    async def score(
        self, prompt: list[int], paths: Sequence[tuple[int, ...]], ids: Sequence[list[int]]
    ) -> list[list[float]]:
        """Score tokens after a prompt that is continued by each path, see `AsyncEngine.score`."""
        parts = [paths[start : start + _PROMPTS] for start in range(0, len(paths), _PROMPTS)]
        asked = [self._score_part(prompt, part, some) for part in parts for some in ids]
        found = iter(await together(asked))
        rows: list[list[float]] = []
        for part in parts:
            blocks = [next(found) for _ in ids]
            rows += [[logp for block in blocks for logp in block[path]] for path in range(len(part))]
        return rows

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _score_part(
        self, prompt: list[int], paths: Sequence[tuple[int, ...]], ids: list[int]
    ) -> list[list[float]]:
        prompts = [[*prompt, *path] for path in paths]
        choices = await self._complete({"prompt": prompts, **scoring(ids)})
        if [choice.index for choice in choices] != list(range(len(paths))):
            raise ServerFailed("it answered other prompts than it was asked for")
        return [choice.logps(ids) for choice in choices]

    async def _served_name(self) -> str:
        """Find the name under which the model is served.

        Raises:
            InputError: it is not served.
            ServerFailed: the server does not answer.
        """
        response = await self._send("GET", "/v1/models")
        cards = read_models(response.content)
        folder = self._served.folder
        for card in cards:
            if folder.name in (card.id, Path(card.id).name, Path(card.root or "").name):
                return card.id
        told = ", ".join(f"{card.id} (from {card.root})" for card in cards)
        raise InputError(
            f"{self.url} serves {told}, but the run's model is {folder}; serve that folder, "
            f"or say that it is this one with --served-model-name {folder.name}."
        )

    async def _complete(self, body: dict[str, Any]) -> list[Choice]:
        response = await self._send("POST", "/v1/completions", {**PLAIN, "model": self._model, **body})
        return read_completion(response.content)

    async def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx2.Response:
        import httpx2

        try:
            response = await self._client.request(method, path, json=body)
        except httpx2.HTTPError as error:
            raise _failed(error) from error
        if response.status_code != 200:
            raise self._refusal(response)
        return response

    def _refusal(self, response: httpx2.Response) -> Exception:
        """Tell a request that no server can take from a server that takes none."""
        status = response.status_code
        if status in (401, 403):
            return ServerFailed(f"HTTP {status}, it refuses the key in the variable {KEY_VARIABLE}")
        if status in (400, 413, 422):
            return InputError(f"{self.url} cannot take this request: {response.text[:_SHOWN]}")
        return ServerFailed(f"HTTP {status}")


def _failed(error: httpx2.HTTPError) -> ServerFailed:
    return ServerFailed(str(error) or type(error).__name__)
