"""docs/map.md tells where everything is, and folders stay small enough to be read at a glance."""

from collections import Counter

from tests import map as product
from vbs.settings import BASE_DIR

MOST = 15  # modules in a folder


def test_every_module_says_what_it_is() -> None:
    assert not [str(path.relative_to(BASE_DIR)) for path in product.modules() if not product.sentence(path)]


def test_the_map_is_true() -> None:
    assert product.PLACE.read_text() == product.written(), "run: python -m tests.map"


def test_no_folder_has_more_than_a_page_of_modules() -> None:
    sizes = Counter(str(path.parent.relative_to(BASE_DIR)) for path in product.modules())
    assert not {folder: count for folder, count in sizes.items() if count > MOST}


def test_every_command_and_target_is_in_its_document() -> None:
    made = product.commands()
    assert product.COMMANDS.read_text() == made, "run: python -m tests.map"
    assert "| `make test` |" in made and "\n## manage.py model\n" in made
    assert "| `submit FILE` |" in made and "`--priority PRIORITY`" in made


def test_folders_say_what_they_are() -> None:
    said = product.folders()
    assert {"vbs", "batches", "models_registry", "curation", "finetuning"} <= {*said}
    there = {path.name for path in BASE_DIR.iterdir() if path.is_dir() and path.name[0] not in "._"}
    assert there - {"data", "build"} - {name for name in there if name.endswith(".egg-info")} <= {*said}
