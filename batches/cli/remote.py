"""A server's batches, by its HTTP API. Files are sent and received in pieces."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from vbs.cli.remote import Remote, RemoteError
from vbs.openai.schema import BatchObject, FileObject, QueueObject

_UNFIT_FOR_FORM = re.compile(r'["\x00-\x1f]')  # characters that a file's name in a multipart form cannot have


class Batches(Remote):
    def upload(self, path: Path, purpose: str = "batch") -> FileObject:
        with path.open("rb") as file:
            found: FileObject = self.ask(
                "POST", "/v1/files", "file", data={"purpose": purpose}, files={"file": (_label(path), file)}
            )
        return found

    def submit(
        self,
        path: Path,
        *,
        name: str = "",
        model: str = "",
        endpoint: str = "",
        priority: int | None = None,
        metadata: Mapping[str, str] | None = None,
        prompt: str = "",
        system: str = "",
        id_column: str = "",
        parameters: Mapping[str, Any] | None = None,
    ) -> BatchObject:
        """Uploads a file and makes a batch of it in one call: afterwards both are there, or neither. prompt, system,
        id_column and parameters are for tables."""
        fields = {"name": name, "model": model, "endpoint": endpoint}
        fields["priority"] = "" if priority is None else str(priority)
        fields |= {"prompt": prompt, "system": system, "id_column": id_column}
        fields["parameters"] = json.dumps(parameters) if parameters else ""
        fields = {field: value for field, value in fields.items() if value}
        for key, value in (metadata or {}).items():
            if _UNFIT_FOR_FORM.search(key):
                raise RemoteError(f"The metadata key {key!r} has a quote or a control character; leave that out.")
            fields[f"metadata[{key}]"] = value
        with path.open("rb") as file:
            return self._batch("POST", "/v1/batches", data=fields, files={"file": (_label(path), file)})

    def create(self, input_file_id: str, endpoint: str, completion_window: str = "24h", **options: Any) -> BatchObject:
        """Makes a batch of an uploaded file. options: name, metadata, priority, output_expires_after."""
        body = {"input_file_id": input_file_id, "endpoint": endpoint, "completion_window": completion_window}
        return self._batch("POST", "/v1/batches", json=body | options)

    def retrieve(self, batch_id: str) -> BatchObject:
        return self._batch("GET", _path(batch_id))

    def cancel(self, batch_id: str) -> BatchObject:
        return self._batch("POST", _path(batch_id, "/cancel"))

    def retry(self, batch_id: str) -> BatchObject:
        """Makes a new batch of the requests that failed in this one or were not run."""
        return self._batch("POST", _path(batch_id, "/retry"))

    def batches(self, limit: int) -> Iterator[BatchObject]:
        """The newest ones first."""
        return self.listed("/v1/batches", limit)

    def results(self, batch_id: str, content_type: str = "", **query: str) -> Iterator[bytes]:
        """The output in pieces of any size; while the batch runs, the lines that are complete so far. query: `format`
        and `join`, for a table of the results. content_type: of the format. Raises RemoteError where another comes."""
        return self.stream(_path(batch_id, "/results") + (f"?{urlencode(query)}" if query else ""), content_type)

    def errors(self, batch_id: str) -> Iterator[bytes]:
        return self.stream(_path(batch_id, "/errors"))

    def logs(self, batch_id: str) -> Iterator[bytes]:
        return self.stream(_path(batch_id, "/logs"))

    def queue(self) -> QueueObject:
        found: QueueObject = self.ask("GET", "/v1/queue", "queue")
        return found

    def _batch(self, method: str, path: str, **options: Any) -> BatchObject:
        found: BatchObject = self.ask(method, path, "batch", **options)
        return found


def _path(batch_id: str, action: str = "") -> str:
    return f"/v1/batches/{quote(batch_id, safe='')}{action}"


def _label(path: Path) -> str:
    return path.name.encode(errors="replace").decode()
