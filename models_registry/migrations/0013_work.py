from django.db import migrations, models


def forget_words(apps, schema_editor):
    """Those of workers of before name what they run, and are read by everybody from now on. Their processes have ended."""
    apps.get_model("models_registry", "Worker").objects.exclude(state="idle").update(activity="")


class Migration(migrations.Migration):
    dependencies = [("models_registry", "0012_attempts")]
    operations = [
        migrations.AlterField(
            model_name="worker",
            name="activity",
            field=models.CharField(
                blank=True, max_length=500, help_text="What it is doing, in words that everybody may read"
            ),
        ),
        migrations.AddField(
            model_name="worker",
            name="work_kind",
            field=models.CharField(
                blank=True, default="", max_length=20, help_text="What kind of work it is at: batch, operation"
            ),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name="worker",
            name="work_id",
            field=models.CharField(
                blank=True, default="", max_length=40, help_text="Of that work, for those who may know of it"
            ),
            preserve_default=False,
        ),
        migrations.RunPython(forget_words, migrations.RunPython.noop),
    ]
