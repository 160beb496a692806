from django.db import migrations

# What was measured has answered then.
CHECKED = """
UPDATE models_registry_model SET checked_at = (
    SELECT max(at) FROM models_registry_measurement WHERE model_id = models_registry_model.id
)
"""


class Migration(migrations.Migration):
    dependencies = [("models_registry", "0022_checks")]
    operations = [migrations.RunSQL(CHECKED, migrations.RunSQL.noop)]
