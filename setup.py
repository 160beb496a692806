"""Puts what is no code into the wheel. Everything else about packaging is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("templates", "static", "docs", "examples", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")


class WithWhatIsNoCode(build_py):
    """Beside the packages in a checkout, within `vbs` in the wheel: vbs/places.py finds either."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "vbs" / "shipped"
        shutil.rmtree(target, ignore_errors=True)  # of an earlier build
        target.mkdir(parents=True)
        for name in map(Path, SHIPPED):
            if name.is_dir():
                shutil.copytree(name, target / name, ignore=shutil.ignore_patterns("screenshots", ".gitkeep"))
            else:
                shutil.copy(name, target)


setup(cmdclass={"build_py": WithWhatIsNoCode})
