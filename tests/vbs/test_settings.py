"""Settings: strictly parsed, read in one place, and each of them in docs/settings.md."""

import re
import subprocess
import sys

import pytest

import vbs.settings as vbs_settings
from tests import map as product
from vbs.configuration.declared import SETTINGS
from vbs.settings import BASE_DIR


def load(tmp_path, code="", **environment):
    command = [sys.executable, "-c", f"import django; from vbs import settings; {code}"]
    base = {"PATH": "/usr/bin:/bin", "VBS_DATA_DIR": str(tmp_path)}
    return subprocess.run(command, cwd=BASE_DIR, env=base | environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "name, value",
    [
        ("VBS_PORT", "http"),
        ("VBS_PORT", "0"),
        ("VBS_PORT", "65536"),
        ("VBS_API_AUTH", "none"),
        ("VBS_DEBUG", "maybe"),
        ("VBS_LOG_FORMAT", "xml"),
        ("VBS_LOG_LEVEL", "LOUD"),
        ("VBS_MAX_FILE_MB", "512MB"),
        ("VBS_MAX_BATCH_REQUESTS", "-1"),
        ("VBS_RETENTION_DAYS", "0"),
        ("VBS_IO_WORKERS", "0"),
        ("VBS_LEASE_SECONDS", "1"),
        ("VBS_WORKER_NAME", "../gpu"),
        ("VBS_CURRENCY", "$"),
        ("VBS_STORAGE", "ftp://bucket"),
        ("VBS_STORAGE", "s3://"),
        ("DATABASE_URL", "not a url"),
    ],
)
def test_a_bad_value_stops_the_start_and_names_its_variable(tmp_path, name, value):
    done = load(tmp_path, **{name: value})
    assert done.returncode != 0 and name in done.stderr.splitlines()[-1], done.stderr[-500:]


def test_manage_says_it_in_one_line(tmp_path):
    environment = {"PATH": "/usr/bin:/bin", "VBS_DATA_DIR": str(tmp_path), "VBS_PORT": "http"}
    command = [sys.executable, str(BASE_DIR / "manage.py"), "check"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "Traceback" not in done.stderr and "VBS_PORT" in done.stderr


def test_the_secret_key_is_made_once_and_is_for_its_owner_only(tmp_path):
    first, second = (load(tmp_path, "print(settings.SECRET_KEY)").stdout for _ in range(2))
    assert first == second and len(first.strip()) > 40
    assert (tmp_path / "secret_key").stat().st_mode & 0o077 == 0
    assert load(tmp_path, "print(settings.SECRET_KEY)", VBS_SECRET_KEY="given").stdout == "given\n"


def test_a_database_url(tmp_path):
    url = "postgresql://me:p%40ss@db.example:5433/vbs?sslmode=require"
    done = load(tmp_path, "print(settings.DATABASES['default'])", DATABASE_URL=url)
    for part in ("'me'", "'p@ss'", "'db.example'", "'5433'", "'vbs'", "'sslmode': 'require'"):
        assert part in done.stdout, done.stdout + done.stderr


def test_a_bucket(tmp_path):
    done = load(
        tmp_path, "print(settings.STORAGES['default'])", VBS_STORAGE="s3://bucket/a/b", VBS_S3_ENDPOINT="http://x:1"
    )
    for part in ("S3Storage", "'bucket_name': 'bucket'", "'location': 'a/b'", "'endpoint_url': 'http://x:1'"):
        assert part in done.stdout, done.stdout + done.stderr


def test_no_other_module_reads_vbs_variables():
    """Settings are read once. (Tests and benchmarks start processes, and tell them.)"""
    reader = re.compile(r"""(environ\.get\(|environ\[|getenv\()\s*f?["']VBS_(?!INSTANCE)""")
    for folder in ("vbs", "batches", "models_registry", "curation", "finetuning"):
        for path in (BASE_DIR / folder).rglob("*.py"):
            assert not reader.search(path.read_text()), path


def test_each_has_a_row():
    """`python -m tests.map` writes them."""
    made = product.settings()
    assert product.SETTINGS.read_text() == made
    assert "| `VBS_PORT` | `4080` | Port to listen on |" in made and made.count("| `VBS_") > 45


def test_every_setting_is_there_by_its_attribute():
    for setting in SETTINGS.values():
        assert hasattr(vbs_settings, setting.attribute), setting.name
    assert SETTINGS["VBS_MAX_FILE_MB"].default == "`512`" and not SETTINGS["VBS_MAX_FILE_MB"].changes
