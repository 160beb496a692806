import django.contrib.postgres.indexes
import django.contrib.postgres.search
from django.db import migrations, models

NAME = "to_tsvector('simple', %(expressions)s || ' ' || translate(%(expressions)s, '-./', '   '))"
METADATA = "coalesce(jsonb_to_tsvector('simple', %(expressions)s, '[\"key\", \"string\"]'), '')"


class Migration(migrations.Migration):
    """Apart from the new column, whose lock would otherwise keep readers out while the index is built."""

    dependencies = [
        ("batches", "0016_name"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="batch",
            index=django.contrib.postgres.indexes.GinIndex(
                models.Func(
                    models.Func(models.F("name"), template=NAME),
                    models.Func(models.F("metadata"), template=METADATA),
                    arg_joiner=" || ",
                    output_field=django.contrib.postgres.search.SearchVectorField(),
                    template="(%(expressions)s)",
                ),
                name="batch_by_words",
            ),
        ),
        migrations.RemoveIndex(model_name="batch", name="batch_by_metadata"),
    ]
