"""What an operator writes: models, pairs, how they are placed, limits and keys. Typed, frozen, unknown keys refused.

`Settings` is the part that may change while requests run; the rest takes a restart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter, model_validator

from earnest.specs import Spec, UserError, read_toml, validated
from earnest.specs.dtypes import Dtype

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LARGEST_ALPHA = 100.0
MOST_BODY = 1 << 24
"""Bytes of a body that Serve's proxies pass on."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$")]
Number = Annotated[float, Field(ge=-LARGEST_ALPHA, le=LARGEST_ALPHA, allow_inf_nan=False)]
Alpha = Number | Literal["adaptive"]
"""How strongly a pair steers: a finite number, or `adaptive` to solve for it at every token."""


class Model(Spec):
    """One member of the ensemble.

    `source` is a folder, a hub id with `@revision`, or `nano:large` and its kin. `gpus` and `cpus` are what Ray keeps
    for it: for its own actor where placement is `spread`, added up for the ensemble's replica where it is `colocated`.
    `cores` are those that a spread model on the CPU keeps to, by their numbers; without any it wanders.
    `chat_template` is a path, the name of a built-in one (`prompts.TEMPLATES`), or empty for the tokenizer's own;
    `system` is the system prompt of conversations that bring none.
    """

    source: str = Field(min_length=1)
    """A folder, a hub id with `@revision`, or one of the nano family."""
    device: str = "cpu"
    """`cpu` or `cuda`."""
    gpus: float = Field(default=0.0, ge=0)
    """GPUs that Ray keeps for it."""
    cpus: float = Field(default=0.1, ge=0)
    """CPUs that Ray keeps for it."""
    cores: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """CPU cores, by number, that a spread model keeps to."""
    dtype: Dtype = "auto"
    """What it computes in."""
    chat_template: str = ""
    """A path, the name of a built-in template, or empty for the tokenizer's own."""
    system: str = ""
    """The system prompt of conversations that bring none."""


class Pair(Spec):
    """A tuned expert, its untuned twin, and how strongly their difference steers the base.

    Without an antiexpert the base stands there.
    """

    expert: str
    """The tuned model."""
    antiexpert: str | None = None
    """Its untuned twin; the base by default."""
    alpha: Alpha = 1.0
    """How strongly the pair steers where a request does not say."""


class Batch(Spec):
    """The running batch, settled at start.

    `rows` texts of at most `context` tokens at a time, fewer where `kv_bytes` do not hold so many; `waiting` requests
    may queue; `prefill` tokens of prompts are read between two steps.
    """

    rows: int = Field(default=32, ge=1)
    """Texts at a time."""
    context: int | None = Field(default=None, ge=2)
    """Tokens of a text at most; what the models allow by default."""
    kv_bytes: int | None = Field(default=None, ge=1)
    """Bytes of keys and values at most."""
    waiting: int = Field(default=256, ge=0)
    """Requests that may queue."""
    prefill: int = Field(default=512, ge=1)
    """Tokens of prompts read between two steps."""


class Gateways(Spec):
    """How many processes answer HTTP, and how clients reach them.

    `direct`: on a Ray of one machine they listen on `host` and `port` themselves, `least` of them side by side.
    `proxy`, and on several machines: Serve's own proxies listen and pass everything on, which costs a stream half its
    speed; between the two numbers Serve scales on requests under way.
    """

    ingress: Literal["direct", "proxy"] = "direct"
    """Whether gateways listen themselves, or Serve's proxies do."""
    least: int = Field(default=1, ge=1)
    """Processes at least."""
    most: int = Field(default=2, ge=1)
    """Processes at most, behind Serve's proxies."""
    cpus: float = Field(default=0.1, ge=0)
    """CPUs that Ray keeps for each."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.least > self.most:
            raise ValueError(f"least {self.least} is above most {self.most}; give a range")
        return self


class Limits(Spec):
    """What one request may ask: choices (prompts x n), tokens of each, bytes of its body, seconds in all.

    Who asks for more tokens than there may be is refused, or with `clamp` gets as many, and `length` as the reason.
    """

    choices: int = Field(default=16, ge=1)
    """Choices (prompts x n) of a request."""
    max_tokens: int = Field(default=4096, ge=1)
    """Tokens of a choice."""
    clamp: bool = False
    """Whether larger wishes are cut instead of refused."""
    body_bytes: int = Field(default=1 << 20, ge=1024, le=MOST_BODY)
    """Bytes of a request's body."""
    timeout_s: float = Field(default=120.0, gt=0, allow_inf_nan=False)
    """Seconds for a request in all."""


class Key(Spec):
    """One bearer key, by the SHA-256 of it, and what its owner may do; None is no limit.

    `pairs` and `alphas` (a range) bound the steering that may be asked for, with `adaptive` a permission of its own;
    `metrics` opens /metrics. A request is one of `concurrent`, each of its choices (prompts x n) one of `rows`. Limits
    per minute and at a time hold in each gateway process.
    """

    name: Name
    """The owner's name in logs and metrics."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the key, as `serve.keys new` prints it."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """Requests per minute."""
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Tokens per minute."""
    concurrent: int | None = Field(default=None, ge=1)
    """Requests at a time."""
    rows: int | None = Field(default=None, ge=1)
    """Choices at a time."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Tokens of a choice."""
    pairs: tuple[str, ...] | None = None
    """Pairs that may be asked for; all by default."""
    alphas: tuple[Number, Number] | None = None
    """The range of alpha that may be asked for."""
    adaptive: bool = True
    """Whether adaptive alpha may be asked for."""
    metrics: bool = False
    """Whether the key opens /metrics."""


class Traces(Spec):
    """MLflow traces of requests: of which share (0 is off), to which server, into which experiment."""

    rate: float = Field(default=0.0, ge=0, le=1)
    """Share of requests that are traced."""
    uri: str | None = Field(default=None, min_length=1)
    """MLflow's tracking URI."""
    experiment: str = Field(default="earnest-serve", min_length=1)
    """The experiment's name."""

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if self.rate and self.uri is None:
            raise ValueError(f'rate {self.rate}: say where to, such as uri = "http://127.0.0.1:5000"')
        return self


class Settings(Spec):
    """What may change while requests run (Serve's `user_config`): what is left out stays as it is.

    `alphas` sets the alpha of pairs by their names. While `draining`, what runs goes on and new requests get 503.
    """

    alphas: Mapping[str, Alpha] = {}
    """Alphas of pairs, by their names."""
    default_pair: str | None = None
    """The pair where a request names none."""
    limits: Limits | None = None
    """What one request may ask."""
    keys: tuple[Key, ...] | None = None
    """All keys; at least one where there was one."""
    draining: bool | None = None
    """Whether new requests are turned away."""
    trace_rate: float | None = Field(default=None, ge=0, le=1)
    """Share of requests that are traced."""


class Config(Spec):
    """One served ensemble.

    `keyless` says that without keys is meant so: this machine alone is then served. `examples` are prompts that the
    page offers to begin with; `cors` the origins, such as `https://example.org` or `*`, whose pages may ask.
    """

    name: Name = "earnest"
    """The ensemble's name as a model of the API."""
    models: Mapping[Name, Model] = Field(min_length=1)
    """The models, by name."""
    base: str
    """The model that is steered."""
    pairs: Mapping[Name, Pair] = {}
    """The pairs, by name."""
    default_pair: str | None = None
    """The pair where a request names none; the first by default."""
    chat_stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Texts that end an answer of a chat."""
    placement: Literal["colocated", "spread"] = "colocated"
    """All models in one process, or each in its own."""
    strategy: Literal["STRICT_PACK", "PACK", "SPREAD", "STRICT_SPREAD"] = "STRICT_PACK"
    """How Ray places spread models on nodes."""
    batch: Batch = Batch()
    """The running batch."""
    gateways: Gateways = Gateways()
    """The processes that answer HTTP."""
    limits: Limits = Limits()
    """What one request may ask."""
    keys: tuple[Key, ...] = ()
    """Who may ask."""
    keyless: bool = False
    """That there are no keys is meant so: this machine alone is served."""
    draining: bool = False
    """Whether new requests are turned away."""
    examples: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Prompts that the page offers."""
    cors: tuple[Annotated[str, Field(pattern=r"^(\*|https?://[^/*]+)$")], ...] = ()
    """Origins whose pages may ask."""
    host: str = "127.0.0.1"
    """The address to listen on."""
    port: int = Field(default=8000, ge=1, le=65535)
    """The port to listen on."""
    traces: Traces = Traces()
    """MLflow traces of requests."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        self._check_members()
        self._check_keys()
        if not self.keys and self.host not in LOOPBACK:
            raise ValueError(
                f"host {self.host!r} without keys would serve anybody; add a key (python -m serve.keys new NAME) "
                "or bind 127.0.0.1"
            )
        return self

    def _check_members(self) -> None:
        named = {"base": self.base}
        for name, pair in self.pairs.items():
            named[f"pairs.{name}.expert"] = pair.expert
            if pair.antiexpert is not None:
                named[f"pairs.{name}.antiexpert"] = pair.antiexpert
        for place, model in named.items():
            if model not in self.models:
                raise ValueError(f"{place} {model!r} is no model; the models are {', '.join(self.models)}")
        for name, of in self.models.items():
            if of.cores and (self.placement != "spread" or of.device != "cpu"):
                raise ValueError(
                    f"models.{name}.cores {list(of.cores)}: only a model on the CPU, in a process of its own, keeps to "
                    'cores; set placement = "spread" and device = "cpu", or leave them out'
                )
        if self.name in self.models:
            raise ValueError(f"name {self.name!r} is a model's too; give the ensemble a name of its own")
        if self.default_pair is not None and self.default_pair not in self.pairs:
            raise ValueError(f"default_pair {self.default_pair!r} is no pair; the pairs are {', '.join(self.pairs)}")

    def _check_keys(self) -> None:
        if self.keys and self.keyless:
            raise ValueError(f"keyless = true with {len(self.keys)} keys; leave one of them out")
        if "*" in self.cors and self.keyless:
            raise ValueError(
                "cors '*' with keyless: any page in a browser here could ask; name the origins, or add a key"
            )
        for what in ("name", "sha256"):
            counts = Counter(getattr(key, what) for key in self.keys)
            twice = [value for value, count in counts.items() if count > 1]
            if twice:
                raise ValueError(f"keys: {what} {twice[0]} stands twice; every key has its own")
        for key in self.keys:
            unknown = sorted(set(key.pairs or ()) - set(self.pairs))
            if unknown:
                raise ValueError(f"key {key.name}: {unknown[0]!r} is no pair; the pairs are {', '.join(self.pairs)}")
            if key.alphas is not None and key.alphas[0] > key.alphas[1]:
                raise ValueError(f"key {key.name}: alphas {list(key.alphas)} is no range; write [least, most]")

    @property
    def steered_by(self) -> str | None:
        """The pair that steers where a request names none: the default one, or the first."""
        return self.default_pair or next(iter(self.pairs), None)

    def with_settings(self, fields: Mapping[str, Any]) -> Config:
        """The same config with other `Settings`. Raises UserError where they do not fit it, or take its last key."""
        settings = validated(TypeAdapter(Settings), fields, "settings")
        if self.keys and settings.keys == ():
            raise UserError("settings: keys is empty: that would serve anybody; keep at least one key")
        unknown = sorted(set(settings.alphas) - set(self.pairs))
        if unknown:
            raise UserError(f"settings: {unknown[0]!r} is no pair; the pairs are {', '.join(self.pairs)}")
        changed = self.model_dump()
        for pair, alpha in settings.alphas.items():
            changed["pairs"][pair]["alpha"] = alpha
        changed |= settings.model_dump(include={"default_pair", "limits", "keys", "draining"}, exclude_none=True)
        changed["keyless"] = self.keyless and not settings.keys
        if settings.trace_rate is not None:
            changed["traces"]["rate"] = settings.trace_rate
        return validated(TypeAdapter(Config), changed, "settings")


def read_config(path: Path) -> Config:
    """A config from a TOML file. Raises UserError naming the file, the key, the value and the rule."""
    return read_toml(path, TypeAdapter(Config), "config; serve/configs holds examples")
