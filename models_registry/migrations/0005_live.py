from django.db import migrations

from vbs.live import topics


class Migration(migrations.Migration):
    dependencies = [("models_registry", "0004_prices_and_restart"), ("configuration", "0002_live")]
    operations = [
        topics.triggers(f"models_registry_{table}", "models")
        for table in ("model", "alias", "download", "operation", "measurement")
    ] + [topics.triggers("models_registry_worker", "workers")]
