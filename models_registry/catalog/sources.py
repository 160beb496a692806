"""Where a model may come from: which folders of this machine, and which servers.

Somebody with a shell on this machine can read its files anyway, so `manage.py` takes any folder, unless VBS_MODEL_ROOTS
names some. A call over the network (`on_server`) may name only folders in these and in MODELS_DIR, and only servers
with a public address: otherwise somebody who may add models could look around in files and networks.
"""

from pathlib import Path

from django.conf import settings

from models_registry.catalog.folders import ModelError
from vbs.outgoing.addresses import AddressError, check_url, split_url


def folder(given: str, on_server: bool) -> Path:
    """The path, if models may come from there. Links are followed, those in the folder too. Raises ModelError."""
    if "\0" in given:
        raise ModelError("the path has a NUL in it: give a folder or a .gguf file")
    path = Path(given)
    if on_server and not path.is_absolute():
        raise ModelError(f"{given!r} is not an absolute path: give one that begins with /")
    if not on_server:
        try:
            path = path.expanduser().absolute()
        except RuntimeError as error:
            raise ModelError(f"{given!r} cannot be found: {error}") from None
        if not settings.VBS_MODEL_ROOTS:
            return path
    roots = [Path(settings.MODELS_DIR), *map(Path, settings.VBS_MODEL_ROOTS)]
    if not on_server:
        roots.append(Path(settings.VBS_DATA_DIR) / "cache")  # packages of demo models
    found = _within(path, roots)
    try:
        for inner in found.iterdir() if found.is_dir() else ():
            _within(inner, roots)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    return found


def check_remote_url(source: str, on_server: bool) -> None:
    """Raises ModelError unless this can be the URL of a remote server."""
    form = "it must look like http(s)://host[:port]/v1, without a user, a query or a fragment"
    try:
        parts = split_url(source)
    except AddressError as error:
        raise ModelError(f"{source!r} cannot be a remote server: {form} ({error})") from error
    if not parts.path.rstrip("/").endswith("/v1") or "?" in source or "#" in source:
        raise ModelError(f"{source!r} cannot be a remote server: {form}")
    try:
        check_url(source, private=not on_server or settings.VBS_PRIVATE_URLS)
    except AddressError as error:
        raise ModelError(str(error)) from error


def _within(path: Path, roots: list[Path]) -> Path:
    """The path with every link followed, below the root as the settings name it. Raises ModelError."""
    try:
        real = path.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise ModelError(f"{path} cannot be followed: {error}") from None
    for root in roots:
        try:
            rest = real.relative_to(root.resolve())
        except ValueError:
            continue
        if root == settings.MODELS_DIR and (not rest.parts or rest.parts[0].startswith(".")):
            continue  # folders that are being made
        return root.absolute() / rest
    raise ModelError(
        f"{path} is not in a folder that models may come from: put it below {' or '.join(map(str, roots))}, "
        "or name its folder in VBS_MODEL_ROOTS"
    )
