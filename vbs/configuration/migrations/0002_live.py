from django.db import migrations

from vbs.live import topics


class Migration(migrations.Migration):
    dependencies = [
        ("configuration", "0001_initial"),
        ("channels_postgres", "0004_notify_ensure_payload_not_too_big"),
    ]
    operations = [topics.FUNCTIONS, topics.triggers("configuration_override", "settings")]
