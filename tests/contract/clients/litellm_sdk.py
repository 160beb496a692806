"""LiteLLM's SDK against a running server: python litellm_sdk.py BASE_URL KEY FILE.

A process of its own, for importing it changes the process that does. What it has seen is one JSON object.
"""

import json
import os
import sys
import time

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "true"  # or it asks GitHub for the prices of the day
import litellm

url, key, path = sys.argv[1:]
server = {"custom_llm_provider": "openai", "api_base": url, "api_key": key}

with open(path, "rb") as content:
    file = litellm.create_file(file=content, purpose="batch", **server)
assert litellm.file_retrieve(file_id=file.id, **server).filename
batch = litellm.create_batch(
    completion_window="24h",
    endpoint="/v1/chat/completions",
    input_file_id=file.id,
    metadata={"by": "litellm"},
    **server,
)
while batch.status not in ("completed", "failed", "expired", "cancelled"):
    time.sleep(0.1)
    batch = litellm.retrieve_batch(batch_id=batch.id, **server)
assert batch.status == "completed", batch
answers = [json.loads(one) for one in litellm.file_content(file_id=batch.output_file_id, **server).text.splitlines()]
assert batch.id in [one.id for one in litellm.list_batches(**server).data]
again = litellm.create_batch(completion_window="24h", endpoint="/v1/chat/completions", input_file_id=file.id, **server)
cancelled = litellm.cancel_batch(batch_id=again.id, **server).status
assert file.id in [one.id for one in litellm.file_list(**server).data]
assert litellm.file_delete(file_id=file.id, **server).deleted
said = [[one["custom_id"], one["response"]["body"]["choices"][0]["message"]["content"]] for one in answers]
print(json.dumps({"answers": said, "cancelled": cancelled, "metadata": batch.metadata}))
