// The official client for Node against a running server: node openai.mjs PACKAGE FILE, the package being an alias of
// package.json. Whatever the client complains of ends it; what it has seen is one JSON object on standard output.
import assert from "node:assert/strict";
import fs from "node:fs";
import { setTimeout as pause } from "node:timers/promises";

const [name, path] = process.argv.slice(2);
const openai = await import(name);
const client = new openai.default({ maxRetries: 0, timeout: 60_000 }); // OPENAI_BASE_URL, OPENAI_API_KEY
const content = fs.readFileSync(path);
const endpoint = "/v1/chat/completions";

async function run(file) {
  let batch = await client.batches.create({ input_file_id: file.id, endpoint, completion_window: "24h", metadata: { by: name } });
  while (!["completed", "failed", "expired", "cancelled"].includes(batch.status)) {
    await pause(100);
    batch = await client.batches.retrieve(batch.id);
  }
  assert.equal(batch.status, "completed", JSON.stringify(batch.errors));
  const text = await (await client.files.content(batch.output_file_id)).text();
  return text.trim().split("\n").map((line) => JSON.parse(line)).map((line) => [line.custom_id, line.response.body.choices[0].message.content]);
}

async function parts() {
  const upload = await client.uploads.create({ bytes: content.length, filename: "parts.jsonl", mime_type: "application/jsonl", purpose: "batch" });
  const middle = content.length >> 1;
  const ids = [];
  for (const piece of [content.subarray(0, middle), content.subarray(middle)]) {
    ids.push((await client.uploads.parts.create(upload.id, { data: await openai.toFile(piece, "part") })).id);
  }
  return (await client.uploads.complete(upload.id, { part_ids: ids })).file;
}

const ways = {
  buffer: async () => client.files.create({ file: await openai.toFile(content, "buffer.jsonl"), purpose: "batch" }),
  stream: async () => client.files.create({ file: fs.createReadStream(path), purpose: "batch" }),
  parts,
};
const seen = {};
for (const [way, upload] of Object.entries(ways)) {
  const file = await upload();
  assert.equal(file.bytes, content.length, way);
  seen[way] = await run(file);
}

const listed = [];
for await (const batch of client.batches.list({ limit: 1 })) listed.push(batch.id);
assert.equal(new Set(listed).size, listed.length);
assert.ok(listed.length >= 3);
assert.ok((await client.models.list()).data.some((model) => model.id === "scripted"));
const spare = await client.files.create({ file: fs.createReadStream(path), purpose: "batch" });
assert.ok((await client.files.delete(spare.id)).deleted);
await assert.rejects(client.files.retrieve(spare.id), (error) => error instanceof openai.default.NotFoundError);
console.log(JSON.stringify(seen));
