from django.db import migrations, models


class Migration(migrations.Migration):
    """The log is filtered by who, what, when and to what, and each attempt to sign in looks at its last minutes."""

    dependencies = [("configuration", "0004_wakes")]
    operations = [
        migrations.AlterModelOptions(
            name="auditentry", options={"ordering": ["-at", "-id"], "verbose_name_plural": "audit entries"}
        ),
        migrations.AddIndex("auditentry", models.Index(fields=["at", "id"], name="audit_when")),
        migrations.AddIndex("auditentry", models.Index(fields=["username", "at", "id"], name="audit_who")),
        migrations.AddIndex(
            "auditentry",
            models.Index(
                fields=["action", "at"], name="audit_what", opclasses=["varchar_pattern_ops", "timestamptz_ops"]
            ),
        ),
        migrations.AddIndex(
            "auditentry",
            models.Index(fields=["target"], name="audit_object", opclasses=["varchar_pattern_ops"]),
        ),
    ]
