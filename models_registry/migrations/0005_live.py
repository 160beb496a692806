from django.db import migrations

from vbs import live


class Migration(migrations.Migration):
    dependencies = [("models_registry", "0004_prices_and_restart"), ("configuration", "0002_live")]
    operations = [
        live.triggers(f"models_registry_{table}", "models")
        for table in ("model", "alias", "download", "operation", "measurement")
    ] + [live.triggers("models_registry_worker", "workers")]
