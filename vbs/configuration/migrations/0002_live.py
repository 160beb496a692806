from django.db import migrations

from vbs import live


class Migration(migrations.Migration):
    dependencies = [
        ("configuration", "0001_initial"),
        ("channels_postgres", "0004_notify_ensure_payload_not_too_big"),
    ]
    operations = [live.FUNCTIONS, live.triggers("configuration_override", "settings")]
