"""What the reference of the API says before its operations: keys, errors, lists, and what each group is."""

from typing import Any

from vbs.openai.errors import envelope
from vbs.places import PROGRAM

MODELS, FILES, UPLOADS, BATCHES = "Models", "Files", "Uploads", "Batches"
DIRECT, QUEUE, REGISTRY, DOWNLOADS = "Direct requests", "Queue", "Registry", "Downloads"
OPERATIONS, ALIASES, SERVER = "Operations", "Aliases", "Server"

# In the order in which a newcomer needs them
TAGS = {
    MODELS: "What a request can name as its `model`.",
    FILES: "Input files of batches, and the files of their answers.",
    UPLOADS: "A large file in parts of at most 64 MB, up to 8 GB in all.",
    BATCHES: "A file of requests that run together, and their answers. A table becomes a batch in one call.",
    DIRECT: "One request that is answered at once by the model that is loaded, ahead of the requests of batches. With "
    "`stream` the answer comes while it is written.",
    QUEUE: "What runs and what waits for the GPU.",
    REGISTRY: "Everything about each model of this server. Every key may read, an operator's key may change.",
    DOWNLOADS: "A model's files, fetched from the hub. An operator's key starts and steers a download.",
    OPERATIONS: "Work with a model that waits in the queue: load, unload, test, benchmark and tune it. An operator's "
    "key asks for it.",
    ALIASES: "Further names of models, so that an input file can keep the names that it has.",
    SERVER: "The server itself: what is ready, demo models, folders that no model uses.",
}

ABOUT = f"""The OpenAI Batch API on your own GPU. OpenAI's clients work with the address of this server as their
`base_url`, followed by `/v1`. Every example here is a command to copy; it needs an API key in the
variable `KEY`.

## Authentication
Send a key with each request: `Authorization: Bearer sk-vbs-…`. A key in the header `api-key`, as Azure's clients send
it, is taken too. Make a key under System on the pages, or with `{PROGRAM} create_api_key --project NAME --name NAME`;
it is shown once. A key belongs to a project and sees the files, uploads and batches of this project only: for those
of others the answer is 404. What changes the registry of models needs an operator's key (`--operator`); with another
key it is 403. With `VBS_API_AUTH=open` a server takes requests without a key, from its own machine only. `/ready`
needs no key.

## Errors
Each error has the same form, with all four keys: `message` says what was wrong and what to do, `type` is the kind,
`param` names the parameter or is null, and `code` is a word for programs or null. The id of a 500 is also in the
server's log. 429 and 503 come with `Retry-After`: send the same request again after so many seconds.

## Lists
A list has its objects in `data`, the newest first. Long lists come in pages: while `has_more` is true, ask again with
`last_id` as `after`. A parameter that a list does not know is refused, and so is one that is given twice.

## Sent twice
`Idempotency-Key`, 1 to 255 characters, makes a creation safe to send again: within 24 hours the second request with
the same key and body creates nothing and gets the answer of the first.
"""

# Of a parameter in the path, what it is
PATHS = {
    "file_id": "The id of the file",
    "upload_id": "The id of the upload",
    "batch_id": "The id of the batch",
    "operation_id": "The id of the operation",
    "name": "The name; slashes in it stay as they are",
}


# Of each status, an answer. The first ones are what a server really says; the others cannot be asked for.
SAMPLES: dict[str, tuple[str, dict[str, Any]]] = {
    "400": (
        "The request is wrong: mend what the message names",
        envelope(
            "Invalid 'limit': '0'. It must be a whole number from 1 to 100.",
            "invalid_request_error", "limit", "invalid_value",
        ),
    ),
    "401": (
        "The key is missing, wrong, expired or revoked",
        envelope(
            "Incorrect API key provided: it is unknown, expired or revoked. Send another one.",
            "authentication_error", None, "invalid_api_key",
        ),
    ),
    "403": (
        "The key may not do this",
        envelope(
            "This key may not change the registry of models. Use an operator's key: "
            f"'{PROGRAM} create_api_key --project PROJECT --name NAME --operator' makes one.",
            "permission_error", None, "forbidden",
        ),
    ),
    "404": (
        "It does not exist, or belongs to another project",
        envelope("No batch found with id 'batch_none'.", "not_found_error", "id", "batch_not_found"),
    ),
    "405": (
        "The route does not have this method",
        envelope(
            "DELETE is not allowed here: this route takes GET, POST, HEAD, OPTIONS.",
            "invalid_request_error", None, "method_not_allowed",
        ),
    ),
    "409": (
        "It is in a state that does not allow this",
        envelope(
            "The operation 'op_01a221401d338e0f1a2b3c4d5e6f7081' has ended already: its state is 'succeeded'.",
            "conflict_error", "id", "conflict",
        ),
    ),
    "413": (
        "The body, or a file in it, is too large",
        envelope(
            "The request body is too large: this route takes at most 2 MB.",
            "invalid_request_error", None, "request_too_large",
        ),
    ),
    "415": (
        "The body has a type that the route does not take",
        envelope(
            'Unsupported media type "text/plain" in request. This route takes application/json.',
            "invalid_request_error", None, "unsupported_media_type",
        ),
    ),
    "416": (
        "The file does not have these bytes",
        envelope(
            "The range 'bytes=9000-' is beyond the file's 2,230 bytes.",
            "invalid_request_error", "Range", "range_not_satisfiable",
        ),
    ),
    "429": (
        "Too much at once: send it again after Retry-After seconds",
        envelope(
            "Your project has 128 direct requests running, which is the most (VBS_MAX_INTERACTIVE). Wait until one "
            "of them "
            "has ended.",
            "rate_limit_error", None, "rate_limit_exceeded",
        ),
    ),
    "500": (
        "An error of the server; its log says more under the id",
        envelope(
            "The server had an error. Its log says more under err_5f0c2a9b1d7e4836.",
            "server_error", None, "err_5f0c2a9b1d7e4836",
        ),
    ),
    "502": (
        "The model's server gave no answer that can be used",
        envelope(
            "The answer has more than 64 MB (VBS_MAX_ANSWER_MB). Ask for a shorter one.",
            "server_error", None, "bad_gateway",
        ),
    ),
    "503": (
        "Not now: send it again after Retry-After seconds",
        envelope(
            "The server cannot reach its database. Try again in a few seconds.", "server_error", None, "unavailable"
        ),
    ),
    "504": (
        "The model took too long",
        envelope(
            "The answer was not complete within 3600 s (VBS_REQUEST_SECONDS). Ask for fewer tokens, or send it again.",
            "server_error", None, "request_timeout",
        ),
    ),
    "507": (
        "The server's disk is full",
        envelope(
            "The disk of the server's database is full. Free some space, then send the request again.",
            "server_error", None, "storage_full",
        ),
    ),
}  # fmt: skip
