"""Where files other than code are: beside the packages in a checkout, in `vbs/shipped` where vbs is installed."""

from pathlib import Path

_SHIPPED = Path(__file__).resolve().parent / "shipped"  # made by setup.py
INSTALLED = _SHIPPED.is_dir()
BASE_DIR = _SHIPPED if INSTALLED else _SHIPPED.parent.parent
PROGRAM = "vbs" if INSTALLED else "manage.py"  # the command, as messages name it
DATA_DIR = Path("data").absolute() if INSTALLED else BASE_DIR / "data"  # unless VBS_DATA_DIR says otherwise
