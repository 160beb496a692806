"""What the reference at /docs says of models, direct requests, the registry and its operations."""

from typing import Any

from models_registry.api import samples
from models_registry.api.samples import ADAPTER, ALIAS, FETCHED, HUB_ID, MODEL, VECTORS
from vbs.openai.docs import Document, Operation, describe
from vbs.openai.introduction import ALIASES, DIRECT, DOWNLOADS, MODELS, OPERATIONS, REGISTRY, SERVER
from vbs.places import PROGRAM

FRANCE = "What is the capital of France?"
BEES, DOCUMENTS = "What do bees collect?", ["Paris is in France.", "Bees collect nectar."]
NAMED, OF_FETCHED = {"name": MODEL}, {"name": FETCHED}
ONE = {"operation_id": samples.OPERATION_ID}

DESCRIBED = (
    Operation(
        "GET /v1/models",
        MODELS,
        "List models",
        "Every model that a request can name: whether it is loaded, whether it answers direct requests now, and how "
        "fast it "
        "is here.",
        answer={"object": "list", "data": [samples.ABOUT_MODEL]},
    ),
    Operation("GET /v1/models/{name}", MODELS, "Show a model", given=NAMED, answer=samples.ABOUT_MODEL),
    Operation(
        "DELETE /v1/models/{name}",
        MODELS,
        "Delete an adapter",
        "Takes an adapter out of the registry and off its engine, as OpenAI deletes a fine-tuned model. A whole "
        "model is removed "
        "with `DELETE /v1/registry/models/{name}`. It needs an operator's key.",
        given={"name": ADAPTER},
        answer={"id": ADAPTER, "object": "model", "deleted": True},
    ),
    Operation(
        "POST /v1/chat/completions",
        DIRECT,
        "Answer a chat",
        "The body goes to the engine as it is sent. Which models answer is decided by `VBS_INTERACTIVE`; one that is "
        "not loaded is "
        "503 (`model_not_loaded`).",
        sent={"model": MODEL, "messages": [{"role": "user", "content": FRANCE}], "max_tokens": 60},
        answer=samples.CHAT,
    ),
    Operation(
        "POST /v1/completions",
        DIRECT,
        "Complete a text",
        sent={"model": MODEL, "prompt": "The capital of France is", "max_tokens": 10},
        answer=samples.COMPLETION,
    ),
    Operation(
        "POST /v1/responses",
        DIRECT,
        "Create a response",
        "A response cannot run in the background: `background` is refused.",
        sent={"model": MODEL, "input": FRANCE, "max_output_tokens": 60},
        answer=samples.RESPONSE,
    ),
    Operation(
        "POST /v1/embeddings",
        DIRECT,
        "Embed texts",
        "It needs a model for embeddings. The example's vector is shortened.",
        sent={"model": VECTORS, "input": BEES},
        answer=samples.EMBEDDING,
    ),
    Operation(
        "POST /v1/score",
        DIRECT,
        "Score pairs of texts",
        "How alike the texts of each pair are, from a model for scores or embeddings. This route is vLLM's.",
        sent={"model": VECTORS, "queries": BEES, "documents": DOCUMENTS[1:]},
        answer=samples.SCORE,
    ),
    Operation(
        "POST /v1/rerank",
        DIRECT,
        "Rank documents",
        "The documents with the best first, from a model for scores or embeddings. This route is vLLM's.",
        sent={"model": VECTORS, "query": BEES, "documents": DOCUMENTS},
        answer=samples.RANKING,
    ),
    Operation(
        "GET /v1/registry/models",
        REGISTRY,
        "List registered models",
        "What `/v1/models` tells of each, and what the registry knows besides. An operator's key also sees sources "
        "and servers.",
        answer={"object": "list", "data": [samples.REGISTERED]},
    ),
    Operation(
        "POST /v1/registry/models",
        REGISTRY,
        "Register a model",
        "One of `source` (a folder of the server, or the URL of another server), `hub_id` (a repository of the hub) "
        "and `paste` (a link or a "
        "command line) says where the model is. With `base` it becomes an adapter of that model, with `fetch` its "
        "download starts at once.",
        sent={"name": FETCHED, "hub_id": HUB_ID, "engine_args": {"max-model-len": 4096}},
        answer=samples.DRAFT | {"refused": []},
    ),
    Operation(
        "GET /v1/registry/models/{name}", REGISTRY, "Show a registered model", given=NAMED, answer=samples.REGISTERED
    ),
    Operation(
        "PATCH /v1/registry/models/{name}",
        REGISTRY,
        "Edit a model",
        "Only what the body names is changed. Changed engine options are used from the next load on.",
        given=NAMED,
        sent={"notes": "small and quick", "input_price": "0.1", "output_price": "0.2"},
        answer=samples.REGISTERED | {"notes": "small and quick", "input_price": 0.1, "output_price": 0.2},
    ),
    Operation(
        "DELETE /v1/registry/models/{name}",
        REGISTRY,
        "Remove a model",
        "With `files=true` its folder is deleted too, if this server made it. With `dry_run=true` nothing is "
        "removed: the answer says "
        "what would be, and what still needs the model.",
        given=NAMED | {"files": True, "dry_run": True},
        answer={
            "id": MODEL,
            "object": "registry.removal",
            "deleted": False,
            "folder": "/srv/vbs/models/smollm2-135m",
            "files": 7,
            "bytes": 271_000_000,
            "needed_by": [f"alias {ALIAS}"],
        },
    ),
    Operation(
        "GET /v1/registry/models/{name}/fit",
        REGISTRY,
        "Show whether a model fits",
        "The memory that the model needs here, with `context` tokens in each of `sequences` sequences at once, and "
        "what to change where "
        "it does not fit. Sizes are in bytes.",
        given=OF_FETCHED | {"context": 4096, "sequences": 1},
        answer=samples.FIT,
    ),
    Operation(
        "GET /v1/registry/models/{name}/measurements",
        REGISTRY,
        "List a model's measurements",
        "How long loads, turns of batches and benchmarks took. Estimates are worked out from them. Measurements of "
        "batches are for operators "
        "only.",
        given=NAMED,
        answer={
            "object": "list",
            "data": [samples.MEASUREMENT],
            "first_id": "1204",
            "last_id": "1204",
            "has_more": False,
        },
    ),
    Operation(
        "POST /v1/registry/paste",
        REGISTRY,
        "Read a pasted text",
        "What a link, an id or a command line means as a model. Every key may ask; nothing is changed.",
        sent={"text": f"vllm serve {HUB_ID} --max-model-len 4096 --middleware cors"},
        answer={
            "object": "registry.proposal",
            "name": "qwen2.5-0.5b-instruct",
            "source": None,
            "hub_id": HUB_ID,
            "revision": None,
            "file": None,
            "task": None,
            "engine_args": {"max-model-len": 4096},
            "refused": [
                {
                    "option": "middleware",
                    "reason": "the engine option middleware runs code that is not vLLM's: leave it out",
                }
            ],
        },
    ),
    Operation(
        "GET /v1/registry/models/{name}/plan",
        DOWNLOADS,
        "Show what a download takes",
        "Its files and their sizes, as the hub tells them, and whether the disk has space for them.",
        given=OF_FETCHED,
        answer=samples.PLAN,
    ),
    Operation(
        "POST /v1/registry/models/{name}/fetch",
        DOWNLOADS,
        "Start a download",
        "The model is `ready` once its files are here. Follow it in `download` of the model.",
        given=OF_FETCHED,
        answer=samples.DOWNLOAD,
    ),
    Operation(
        "POST /v1/registry/models/{name}/pause",
        DOWNLOADS,
        "Pause a download",
        "What has come is kept.",
        given=OF_FETCHED,
        answer=samples.STARTED | {"state": "paused"},
    ),
    Operation(
        "POST /v1/registry/models/{name}/resume",
        DOWNLOADS,
        "Continue a download",
        "It goes on where it was paused.",
        given=OF_FETCHED,
        answer=samples.STARTED | {"state": "queued"},
    ),
    Operation(
        "POST /v1/registry/models/{name}/cancel",
        DOWNLOADS,
        "Cancel a download",
        "What has come is deleted, and the model is a draft again.",
        given=OF_FETCHED,
        answer=samples.STARTED | {"state": "cancelled", "finished_at": 1795852940},
    ),
    Operation(
        "POST /v1/registry/models/{name}/retry",
        DOWNLOADS,
        "Try a download again",
        "After it has failed. Files that are here already are not fetched again.",
        given=OF_FETCHED,
        answer=samples.DOWNLOAD,
    ),
    Operation(
        "POST /v1/registry/models/{name}/load",
        OPERATIONS,
        "Load a model",
        "The operation waits in the queue like a batch of its `priority`; with `now` it goes before all other work "
        "and interrupts what runs. "
        "Ask for the operation to follow it.",
        given=NAMED,
        sent={"priority": 10},
        answer=samples.LOAD | {"priority": 10},
        status=202,
    ),
    Operation(
        "POST /v1/registry/models/{name}/test",
        OPERATIONS,
        "Test a model",
        "Loads the model and asks it one question; the answer is in `result`.",
        given=NAMED,
        sent={"options": {"prompt": FRANCE, "max_tokens": 64}},
        answer=samples.operation("test", {"prompt": FRANCE, "max_tokens": 64, "temperature": 0}),
        status=202,
    ),
    Operation(
        "POST /v1/registry/models/{name}/benchmark",
        OPERATIONS,
        "Benchmark a model",
        "Measures how fast the model answers made-up requests. Estimates use what it measures.",
        given=NAMED,
        sent={"options": {"requests": 100, "max_tokens": 64}},
        answer=samples.operation(
            "benchmark", {"requests": 100, "max_tokens": 64, "prompt_tokens": 64, "seed": 0, "cold": False}
        ),
        status=202,
    ),
    Operation(
        "POST /v1/registry/models/{name}/tune",
        OPERATIONS,
        "Tune a model",
        "Looks for the fastest engine options within `minutes`, on made-up requests or on the lines of `file`, the "
        "id of an input file.",
        given=NAMED,
        sent={"options": {"minutes": 20}},
        answer=samples.TUNING,
        status=202,
    ),
    Operation(
        "POST /v1/registry/models/{name}/unload",
        OPERATIONS,
        "Unload a model",
        "Frees the memory that its engine takes.",
        given=NAMED,
        sent={},
        answer=samples.operation("unload", {}),
        status=202,
    ),
    Operation(
        "GET /v1/registry/operations",
        OPERATIONS,
        "List operations",
        "With `state=open` those that wait or run, with `model` those of one model.",
        given={"model": MODEL, "state": "all", "log": True},
        answer={
            "object": "list",
            "data": [samples.LOADED | {"log": "Loaded in 9.8 s.\n"}],
            "first_id": samples.OPERATION_ID,
            "last_id": samples.OPERATION_ID,
            "has_more": False,
        },
    ),
    Operation(
        "GET /v1/registry/operations/{operation_id}",
        OPERATIONS,
        "Show an operation",
        "It has ended when `finished_at` is set: `state` is then `succeeded`, `failed` (with `error`) or "
        "`cancelled`. Result and log are "
        "for operators only.",
        given=ONE,
        answer=samples.LOADED,
    ),
    Operation(
        "POST /v1/registry/operations/{operation_id}/cancel",
        OPERATIONS,
        "Cancel an operation",
        "One that runs stops within about a second. One that has ended cannot be cancelled (409).",
        given=ONE,
        answer=samples.LOAD | {"state": "cancelled", "finished_at": 1795852742},
    ),
    Operation(
        "POST /v1/registry/operations/{operation_id}/keep",
        OPERATIONS,
        "Keep what a tuning has found",
        "Gives the model the fastest setting that this `tune` has found, from the next load on.",
        given={"operation_id": samples.TUNING_ID},
        answer=samples.TUNED,
    ),
    Operation(
        "GET /v1/registry/aliases",
        ALIASES,
        "List aliases",
        answer={"object": "list", "data": [samples.ALIASED]},
    ),
    Operation(
        "GET /v1/registry/aliases/{name}", ALIASES, "Show an alias", given={"name": ALIAS}, answer=samples.ALIASED
    ),
    Operation(
        "PUT /v1/registry/aliases/{name}",
        ALIASES,
        "Set an alias",
        "Creates the alias, or points it at another model. Batches that have started keep the model that the name "
        "meant then.",
        given={"name": ALIAS},
        sent={"model": MODEL},
        answer=samples.ALIASED,
    ),
    Operation(
        "DELETE /v1/registry/aliases/{name}",
        ALIASES,
        "Remove an alias",
        given={"name": ALIAS},
        answer={"id": ALIAS, "object": "registry.alias", "deleted": True},
    ),
    Operation(
        "GET /ready",
        SERVER,
        "Show what is ready",
        "The state of each part of the server: `ok`, or what is wrong. 503 unless all are ok. It needs no key.",
        answer={
            "status": "ready",
            "parts": {"database": "ok", "io_worker": "ok", "gpu_worker": "ok", "storage": "ok"},
        },
    ),
    Operation(
        "POST /v1/registry/demo-models/{name}",
        SERVER,
        "Add a demo model",
        "`smollm2`, `gemma` or `minilm`: small real models that come as Python packages. A model that is there "
        "already is answered with "
        "`new: false`.",
        given={"name": "smollm2"},
        answer=samples.REGISTERED | {"new": True, "steps": ["SmolLM2-135M-Instruct: Apache-2.0"]},
    ),
    Operation(
        "GET /v1/registry/fit",
        SERVER,
        "Show whether a folder's model fits",
        "As for a registered model, for a folder of the server that models may come from. It needs an operator's key.",
        given={"folder": samples.FOLDER, "context": 4096, "sequences": 1},
        answer=samples.FIT | {"model": samples.FOLDER},
    ),
    Operation(
        "GET /v1/registry/leftovers",
        SERVER,
        "List unused folders",
        "Folders that this server made and no model uses. It needs an operator's key.",
        answer={"object": "list", "data": [samples.LEFTOVER]},
    ),
    Operation(
        "DELETE /v1/registry/leftovers/{name}",
        SERVER,
        "Delete an unused folder",
        "It needs an operator's key.",
        given={"name": "demo/minilm"},
        answer=samples.LEFTOVER,
    ),
    Operation(
        "PUT /v1/registry/tokens/{name}",
        SERVER,
        "Keep an access token of the hub",
        f"No key may: it is for `{PROGRAM} model token` on the server alone. No answer has the secret.",
        given={"name": "mine"},
        sent={"token": "hf_…"},
        answer={"id": "mine", "object": "registry.token", "models": [FETCHED]},
    ),
    Operation(
        "DELETE /v1/registry/tokens/{name}",
        SERVER,
        "Remove an access token of the hub",
        f"No key may: it is for `{PROGRAM} model token` on the server alone.",
        given={"name": "mine"},
        answer={"id": "mine", "object": "registry.token", "models": [FETCHED], "deleted": True},
    ),
)


def hook(result: Document, **given: Any) -> Document:
    """A hook of drf-spectacular."""
    return describe(result, DESCRIBED)
