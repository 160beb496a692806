"""Reads what people paste to name a model: a link, an id, a command line, a path. It only makes a proposal.

Whether the model exists shows when it is added. The text is never executed: $(…), backticks and variables in it are
plain text. Keys and tokens in it are in no result and in no error.
"""

import json
import re
import shlex
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from urllib.parse import unquote, urlsplit

from models_registry.engine import options
from models_registry.engine.options import Kind, OptionError

MOST_TEXT = 50_000  # characters
UNDERSTOOD = (
    "an id (org/name), a link to huggingface.co, an absolute folder, a .gguf file, an http(s)://…/v1 URL, "
    "or a command: vllm serve, docker run …vllm…, python -m vllm.entrypoints.openai.api_server, hf download"
)
# Short forms of vLLM's options, as its arg_utils.py has them.
SHORT = {
    "q": "quantization",
    "tp": "tensor-parallel-size",
    "pp": "pipeline-parallel-size",
    "dp": "data-parallel-size",
    "dcp": "decode-context-parallel-size",
    "pcp": "prefill-context-parallel-size",
    "ep": "enable-expert-parallel",
    "n": "nnodes",
    "r": "node-rank",
    "dpn": "data-parallel-rank",
    "dpr": "data-parallel-start-rank",
    "dpl": "data-parallel-size-local",
    "dpa": "data-parallel-address",
    "dpp": "data-parallel-rpc-port",
    "dpb": "data-parallel-backend",
    "dph": "data-parallel-hybrid-lb",
    "dpe": "data-parallel-external-lb",
    "dpm": "data-parallel-multi-port-external-lb",
    "sc": "speculative-config",
    "cc": "compilation-config",
    "ac": "attention-config",
    "dc": "diffusion-config",
}
_HUBS = {"huggingface.co", "www.huggingface.co", "hf.co", "www.hf.co"}
_NO_MODELS = {"datasets", "spaces", "docs", "blog", "collections", "papers", "models", "api", "settings", "join"}
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_IMAGE = re.compile(r"[\w.-]+(?::\d+)?(?:/[\w.-]+)*/[\w.-]*vllm[\w.-]*(?::[\w.-]+)?(?:@sha256:[0-9a-f]+)?")
_SERVER_MODULE = re.compile(r"vllm\.entrypoints\.[\w.]*api_server")
_SWITCHES = ("enable-", "disable-", "no-", "trust-", "allow-credentials", "headless", "data-parallel-hybrid-lb")
_SECRETS = {"api-key", "hf-token", "token"}
_LISTS = _SECRETS | {"served-model-name", "lora-modules", "middleware", "allowed-origins", "allowed-methods"}
_ENDS = {"&&", "||", ";", "|", "&", ">", ">>", "2>&1", "&>"}  # words that end a command


class PasteError(Exception):
    """The text names no model, or not in a form that is understood. The message says which forms are."""


@dataclass(frozen=True)
class Proposal:
    """The model that a text names.

    source: a folder, a .gguf file, the URL of a server, or with on_hub the id of a repository on the hub (org/name).
    file: the one file of the repository to use, or empty. revision: a branch, tag or commit, or empty. refused: options
    that a model may not set, each with the reason.
    """

    source: str
    name: str
    on_hub: bool = False
    revision: str = ""
    file: str = ""
    task: str | None = None
    engine_args: dict[str, Any] = field(default_factory=dict)
    refused: list[tuple[str, str]] = field(default_factory=list)


def read(text: str) -> Proposal:
    """The proposal for this text. Raises PasteError."""
    text = text.strip()
    if not text:
        raise PasteError(f"there is nothing to read: give {UNDERSTOOD}")
    if len(text) > MOST_TEXT or "\0" in text:
        raise PasteError(f"this is not a text of at most {MOST_TEXT} characters without NUL: give {UNDERSTOOD}")
    words = _words(text)
    if (arguments := _serving(words)) is not None:
        return _served(arguments)
    if (arguments := _after(words, ("hf", "huggingface-cli"), "download")) is not None:
        return _downloaded(arguments)
    if text[0] in "/~" and "\n" not in text and " -" not in text:
        return _source(text)  # blanks are part of the path
    if len(words) == 1:
        return _source(words[0])
    raise PasteError(f"no model is named here in a way that is understood: give {UNDERSTOOD}")


def _words(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\[ \t]*\n", " ", "\n".join(lines))
    try:
        words = shlex.split(joined)
    except ValueError:
        raise PasteError("a quotation mark or a backslash is not closed: copy the whole command") from None
    return words[1:] if words[:1] == ["$"] else words


def _serving(words: list[str]) -> list[str] | None:
    """The arguments of the vLLM server that this command would start; None when it starts none."""
    if (arguments := _after(words, ("vllm",), "serve")) is not None:
        return arguments
    for place, word in enumerate(words):
        if _SERVER_MODULE.fullmatch(word):
            return _until_end(words[place + 1 :])
    if "run" in words and {"docker", "podman", "nerdctl"} & set(words):
        for place, word in enumerate(words):
            if _IMAGE.fullmatch(word):
                return _until_end(words[place + 1 :])
    return None


def _after(words: list[str], programs: tuple[str, ...], action: str) -> list[str] | None:
    for place, (word, following) in enumerate(pairwise(words)):
        if word.rpartition("/")[2] in programs and following == action:
            return _until_end(words[place + 2 :])
    return None


def _until_end(words: list[str]) -> list[str]:
    return words[: next((place for place, word in enumerate(words) if word in _ENDS), len(words))]


def _served(arguments: list[str]) -> Proposal:
    given, places = _parse(arguments)
    model = _text(given.pop("model", None)) or next(iter(places), "")
    if not model:
        raise PasteError("the command names no model: put it after 'vllm serve', or give --model")
    found = _source(model)
    name, revision = _text(given.pop("served-model-name", None)), _text(given.pop("revision", None))
    task = _task(given)
    taken: dict[str, Any] = {}
    refused: list[tuple[str, str]] = []
    for option, value in given.items():
        if option in options.OURS:
            continue
        try:
            (checked,) = options.check({option: value}).items()
        except OptionError as error:
            refused.append((option[:100], str(error)))
        else:
            plain = checked[0].removeprefix("no-")
            taken.pop(plain, None)
            taken.pop(f"no-{plain}", None)
            taken[checked[0]] = checked[1]
    if revision and not _REVISION.fullmatch(revision):
        raise PasteError("the revision is not the name of a branch, tag or commit: copy the command again")
    return Proposal(
        found.source,
        _name(name, keep=True) if name else found.name,
        found.on_hub,
        (revision or found.revision) if found.on_hub else "",
        found.file,
        task,
        taken,
        refused,
    )


def _downloaded(arguments: list[str]) -> Proposal:
    given, places = _parse(arguments)
    if _text(given.get("repo-type")) not in ("", "model"):
        raise PasteError("this command fetches a data set or a space, not a model: give the id of a model")
    if not places or not _HUB_ID.fullmatch(places[0]):
        raise PasteError("the command names no model: give its id (org/name) after 'download'")
    revision = _text(given.get("revision"))
    file = next((place for place in places[1:] if place.endswith(".gguf")), "")
    return _hub(places[0], revision, file)


def _task(given: dict[str, Any]) -> str | None:
    """The model's task, where the command says it. The option `task`, which vLLM no longer has, is removed."""
    if _text(given.get("task")) in ("embed", "embedding", "generate", "auto"):
        return "embedding" if _text(given.pop("task")).startswith("embed") else None
    if _text(given.get("task")) == "score":
        return _text(given.pop("task"))
    if _text(given.get("convert")) == "classify":
        return "score"
    pooling = _text(given.get("runner")) == "pooling"
    return "embedding" if pooling or _text(given.get("convert")) == "embed" else None


def _parse(arguments: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The options by their long names, and the other arguments. The values of secrets are left out."""
    given: dict[str, Any] = {}
    alone: list[str] = []
    rest = arguments[::-1]
    while rest:
        word = rest.pop()
        if not re.match("--?[A-Za-z]", word):
            alone.append(word)
            continue
        name, equals, value = word.partition("=")
        if level := re.fullmatch("-O([0-3]?)", name):
            name, value, equals = "--optimization-level", level[1] or value, level[1] or equals
        name, dot, path = name.partition(".")
        long = name.removeprefix("--") if name.startswith("--") else SHORT.get(name[1:], name)
        long = long.replace("_", "-")
        found: Any = value
        if not equals:
            found = _values(long, rest)
        if long in _SECRETS:
            found = None
        _put(given, long, path.split(".") if dot else [], found)
    return given, alone


def _values(name: str, rest: list[str]) -> Any:
    """Take the value of an option off `rest`: all its values for a list, True for a switch."""
    option = options.OPTIONS.get(name)
    if option is Kind.SWITCH if option else name.startswith(_SWITCHES):
        return True
    values: list[str] = []
    if name in _SECRETS and rest:
        values.append(rest.pop())  # also when it begins with a dash
    while rest and not re.match("--?[A-Za-z]", rest[-1]) and (not values or name in _LISTS):
        values.append(rest.pop())
    return (values if len(values) > 1 else values[0]) if values else True


def _put(given: dict[str, Any], name: str, path: list[str], value: Any) -> None:
    """Set an option. `--name.a.b value` adds {"a": {"b": value}} to its value, as in vLLM."""
    if not path:
        given[name] = value
        return
    if len(path) > 8:
        given[f"{name}.{path[0]}"] = value  # no option has such a name, so it is refused later
        return
    try:
        there = json.loads(given[name]) if isinstance(given.get(name), str) else given.get(name)
        value = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        there = given.get(name)
    place = given[name] = there if isinstance(there, dict) else {}
    for key in path[:-1]:
        inner = place.get(key)
        place[key] = place = inner if isinstance(inner, dict) else {}
    place[path[-1]] = value


def _text(value: Any) -> str:
    if isinstance(value, list):
        value = value[0]
    return value if isinstance(value, str) else ""


def _source(word: str) -> Proposal:
    if word.startswith(tuple(f"{hub}/" for hub in _HUBS)):
        word = f"https://{word}"
    if word.lower().startswith(("http://", "https://")):
        return _url(word)
    path = word.rstrip("/")
    if path.startswith(("/", "~/")):
        return Proposal(path, _name(_last(path)))
    if "://" not in word and word.lower().endswith(".gguf"):
        return Proposal(word, _name(_last(word)))
    return _hub(path)


def _url(word: str) -> Proposal:
    try:
        parts = urlsplit(word)
        host, user, _ = (parts.hostname or "").lower(), parts.username or parts.password, parts.port
    except ValueError:
        raise PasteError(f"this URL is not complete: give {UNDERSTOOD}") from None
    if host in _HUBS:
        steps = [unquote(step) for step in parts.path.split("/") if step]
        if len(steps) < 2 or steps[0] in _NO_MODELS:
            raise PasteError(
                f"this page of {host} is not a model's: give the link of a model (https://{host}/org/name)"
            )
        within = steps[2:] if steps[2:3] and steps[2] in ("tree", "blob", "resolve", "raw") else []
        file = "/".join(within[2:])
        revision = within[1] if len(within) > 1 else ""
        return _hub("/".join(steps[:2]), revision, file if file.endswith(".gguf") else "")
    if user:
        raise PasteError("the URL has a user or a password in it: leave them out, and give the key by itself")
    path = re.match(r"(?:/[^/]+)*?/v1(?=/|$)", parts.path)
    if not host or not path:
        raise PasteError(f"the URL is neither that of a model on a hub nor that of a server (…/v1): give {UNDERSTOOD}")
    return Proposal(f"{parts.scheme}://{parts.netloc}{path[0]}", _name(host))


def _hub(identity: str, revision: str = "", file: str = "") -> Proposal:
    if not _HUB_ID.fullmatch(identity) or ".." in identity:
        raise PasteError(f"no model is named here in a way that is understood: give {UNDERSTOOD}")
    if revision and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise PasteError("the revision is not the name of a branch, tag or commit: copy the link again")
    return Proposal(identity, _name(_last(file or identity)), True, revision, file)


def _last(path: str) -> str:
    last = path.rpartition("/")[2]
    return last[: -len(".gguf")] if last.lower().endswith(".gguf") else last


def _name(words: str, keep: bool = False) -> str:
    """A name that the registry accepts, made of these words. keep: keep the case of letters, and slashes."""
    fit = re.sub(r"[^A-Za-z0-9._:/-]+" if keep else r"[^A-Za-z0-9._:-]+", "-", words if keep else words.lower())
    return re.sub(r"\.{2,}", ".", fit).lstrip("._:/-")[:200] or "model"
