"""System checks: each bad combination has an id and says what to change."""

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from django.contrib import admin
from django_q.models import Schedule

from batches.checks import windows_can_be_read
from vbs.accounts import roles
from vbs.checks import (
    data_path_is_short,
    media_domains_are_hosts,
    nobody_schedules_functions,
    open_only_on_loopback,
    sizes_fit,
    the_remote_key_has_servers,
    the_secret_key_is_secret,
)
from vbs.settings import BASE_DIR


def test_the_settings_as_they_are_pass():
    for check in (
        open_only_on_loopback,
        sizes_fit,
        data_path_is_short,
        nobody_schedules_functions,
        the_remote_key_has_servers,
        windows_can_be_read,
    ):
        assert check() == []


def test_an_id_means_one_thing():
    checks = defaultdict(set)
    for path in BASE_DIR.glob("*/checks.py"):
        for name, text in re.findall(r"^def (\w+)(.*?)(?=^def |\Z)", path.read_text(), re.DOTALL | re.MULTILINE):
            for one in re.findall(r'id="(\w+\.[EW]\d+)"', text):
                checks[one].add(name)
    assert len(checks) > 10 and [one for one, names in checks.items() if len(names) > 1] == []


def found(messages):
    for one in messages:
        assert one.hint and one.is_serious()
    return {(one.id, one.msg.split()[0].split("=")[0].rstrip(":")) for one in messages}


def test_open_mode_for_strangers(settings):
    settings.VBS_API_AUTH, settings.VBS_HOST = "open", "0.0.0.0"
    assert found(open_only_on_loopback()) == {("vbs.E001", "VBS_API_AUTH")}


@pytest.mark.parametrize("windows", [[], ["24"], ["h"], ["0h"], ["-1h"], ["24h", "soon"], [""], ["1.5h"], ["\u0661h"]])
def test_windows_that_cannot_be_read(settings, windows):
    settings.VBS_COMPLETION_WINDOWS = windows
    assert found(windows_can_be_read()) == {("vbs.E002", "VBS_COMPLETION_WINDOWS")}


def test_windows_that_can(settings):
    settings.VBS_COMPLETION_WINDOWS = ["24h", "7d", "30m", "5s"]
    assert windows_can_be_read() == []


def test_a_line_that_is_larger_than_a_batch(settings):
    settings.VBS_MAX_LINE_MB, settings.VBS_MAX_BATCH_MB = 300, 200
    assert found(sizes_fit()) == {("vbs.E003", "VBS_MAX_LINE_MB")}


def test_a_file_that_is_larger_than_the_room_of_one_address(settings):
    settings.VBS_MAX_FILE_MB, settings.VBS_MAX_SPOOL_MB = 2048, 4096
    assert found(sizes_fit()) == {("vbs.E009", "VBS_MAX_SPOOL_MB")}
    settings.VBS_MAX_SPOOL_MB = 4098
    assert sizes_fit() == []


@pytest.mark.parametrize("letter", ["x", "\u00e9"])
def test_a_data_folder_that_is_too_deep_for_a_socket(settings, letter):
    settings.RUN_DIR = Path("/" + letter * 90)
    assert found(data_path_is_short()) == {("vbs.E004", "VBS_DATA_DIR")}


def test_a_secret_key_that_others_can_read(settings, tmp_path):
    settings.VBS_DATA_DIR = tmp_path
    assert the_secret_key_is_secret() == []
    path = tmp_path / "secret_key"
    path.write_text("x")
    path.chmod(0o600)
    assert the_secret_key_is_secret() == []
    path.chmod(0o640)
    (warning,) = the_secret_key_is_secret()
    assert (warning.id, warning.is_serious()) == ("vbs.W002", False) and "chmod 600" in warning.hint


def test_the_secret_key_is_made_secret(tmp_path):
    code = "from vbs import settings"
    subprocess.run(
        [sys.executable, "-c", code], env={"PATH": "/usr/bin:/bin", "VBS_DATA_DIR": str(tmp_path)}, check=True
    )
    assert (tmp_path / "secret_key").stat().st_mode & 0o777 == 0o600


def test_functions_that_rows_name(settings, monkeypatch):
    settings.Q_CLUSTER = {"name": "io", "ALT_CLUSTERS": {"gpu": {"scheduler": False}}}
    assert found(nobody_schedules_functions()) == {("vbs.E010", "The")}
    settings.Q_CLUSTER = {"name": "io", "scheduler": False, "ALT_CLUSTERS": {"gpu": {"scheduler": True}}}
    (error,) = nobody_schedules_functions()
    assert "cluster gpu" in error.msg
    settings.Q_CLUSTER["ALT_CLUSTERS"] = {"gpu": {}}
    assert not nobody_schedules_functions()
    monkeypatch.setitem(admin.site._registry, Schedule, admin.ModelAdmin(Schedule, admin.site))
    assert found(nobody_schedules_functions()) == {("vbs.E007", "The")}
    monkeypatch.delitem(admin.site._registry, Schedule)
    monkeypatch.setattr(roles, "ADMINS_APPS", ("batches", "django_q"))
    assert found(nobody_schedules_functions()) == {("vbs.E008", "The")}


def test_check_needs_no_database_and_imports_nothing_heavy(tmp_path):
    code = (
        "import sys; sys.argv = ['manage.py', 'check']; import manage; manage.main();"
        "heavy = {'torch', 'vllm', 'transformers', 'trl', 'peft', 'numpy', 'label_studio_sdk'} & set(sys.modules);"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    environment = {"PATH": "/usr/bin:/bin", "VBS_DATA_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=BASE_DIR, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "postgres").exists()


def test_the_remote_key_has_servers(settings):
    settings.VBS_REMOTE_KEY, settings.VBS_REMOTE_ORIGINS = "k", []
    assert [one.id for one in the_remote_key_has_servers()] == ["vbs.W001"]
    settings.VBS_REMOTE_ORIGINS = ["https://vllm.example.org", "http://10.0.0.7:8000/"]
    assert the_remote_key_has_servers() == []
    for none in ("vllm.example.org", "https://vllm.example.org/v1", "https://a b", "https://u:p@a"):
        settings.VBS_REMOTE_ORIGINS = [none]
        assert found(the_remote_key_has_servers()) == {("vbs.E011", "VBS_REMOTE_ORIGINS")}, none


def test_media_domains_are_hosts(settings):
    settings.VBS_MEDIA_DOMAINS = ["images.example.org", "10.0.0.7"]
    assert media_domains_are_hosts() == []
    for none in ("https://a", "a/b", "a:80", "--trust-remote-code", "*.example.org", "A.org", ""):
        settings.VBS_MEDIA_DOMAINS = [none]
        assert found(media_domains_are_hosts()) == {("vbs.E012", "VBS_MEDIA_DOMAINS")}, none
