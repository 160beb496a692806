"""A program in the place of the one that converts a GGUF file, which takes seconds."""

from pathlib import Path

from models_registry.catalog import convert_gguf


def stand_in(base: Path) -> Path:
    """Where to write it, with `base` as the folder that the code is in."""
    program = base.joinpath(*convert_gguf.__name__.split(".")).with_suffix(".py")
    program.parent.mkdir(parents=True)
    for folder in (program.parent, *program.parent.relative_to(base).parents):
        (base / folder / "__init__.py").touch()  # before the real package, wherever that is
    return program
