"""How large the body of a request may be, by its route."""

import re

from vbs.web.limits import MB, Limit, Limits


def limits(max_file_mb: int, max_batch_mb: int = 200) -> Limits:
    """The limits of our own routes; multipart bodies get more than the file that they carry: what is typed with it."""
    batch = Limit((max_batch_mb + 4) * MB, f"VBS_MAX_BATCH_MB is {max_batch_mb}")
    file = Limit((max_file_mb + 1) * MB, f"VBS_MAX_FILE_MB is {max_file_mb}")
    part = Limit((64 + 1) * MB, "a part has at most 64 MB")
    other = Limit(4 * MB, "only files sent as multipart/form-data may be larger")
    part_path = re.compile(r"/v1/uploads/[^/]+/parts")

    def limit(method: str, path: str, content_type: str) -> Limit:
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
