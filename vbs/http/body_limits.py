"""How large the body of an HTTP request may be, by its route."""

import re

from vbs.openai.routes import INTERACTIVE
from vbs.web.limits import MB, BodyLimit, BodyLimits


def limits(max_file_mb: int, max_batch_mb: int = 200, max_line_mb: int = 16) -> BodyLimits:
    """The limit for each of our routes. A multipart body may be larger than its file, for it has other fields too."""
    batch = BodyLimit((max_batch_mb + 4) * MB, f"VBS_MAX_BATCH_MB is {max_batch_mb}")
    file = BodyLimit((max_file_mb + 1) * MB, f"VBS_MAX_FILE_MB is {max_file_mb}")
    part = BodyLimit((64 + 1) * MB, "a part has at most 64 MB")
    request = BodyLimit(max_line_mb * MB, f"VBS_MAX_LINE_MB is {max_line_mb}")
    other = BodyLimit(4 * MB, "only files sent as multipart/form-data may be larger")
    part_path = re.compile(r"/v1/uploads/[^/]+/parts")

    def limit(method: str, path: str, content_type: str) -> BodyLimit:
        if method == "POST" and path.removesuffix("/") in INTERACTIVE:
            return request
        if method == "POST" and content_type.lower().startswith("multipart/form-data"):
            path = path.removesuffix("/")
            if path in ("/v1/files", "/v1/batches"):
                return file
            if path in ("/batches/new", "/batches/new/check"):
                return batch
            if part_path.fullmatch(path):
                return part
        return other

    return limit
