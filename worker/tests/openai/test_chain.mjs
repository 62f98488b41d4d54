// OpenAI's JavaScript SDK, unmodified, against a gateway in front of a chain: test_chain.mjs URL.

import assert from "node:assert/strict";
import OpenAI from "openai";

const client = (options = {}) =>
  new OpenAI({ baseURL: process.argv[2], apiKey: "sk-of-a-rich-one", maxRetries: 0, ...options });
const messages = [{ role: "user", content: "Tell me of the sea." }];
const ask = (more = {}, options = {}, by = client()) =>
  by.chat.completions.create({ model: "test", messages, seed: 5, max_tokens: 12, ...more }, options);

const { data: whole, response } = await ask().withResponse();
assert.equal(response.headers.get("x-deepnode-task"), String(whole.deepnode.task));
let [text, receipt] = ["", null];
for await (const chunk of await ask({ stream: true })) {
  text += chunk.choices[0]?.delta.content ?? "";
  receipt = chunk.deepnode?.receipt_digest ?? receipt;
}
assert.equal(text, whole.choices[0].message.content);
assert.match(receipt, /^[0-9a-f]{64}$/);

const embed = (model) => client().embeddings.create({ model, input: ["the sea", "the sky"] });
const { data: vectors } = await embed("encoder");
assert.equal(vectors.length, 2);
assert.notDeepEqual(vectors[0].embedding, vectors[1].embedding);
await assert.rejects(embed("test"), { status: 404 });

await assert.rejects(ask({ temperature: -1 }), { status: 400, param: "temperature" });
await assert.rejects(ask({ logprobs: true }), { status: 400, param: "logprobs" });
const poor = client({ apiKey: "sk-of-a-poor-one", maxRetries: 5 });
await assert.rejects(ask({}, {}, poor), { status: 429, code: "insufficient_quota" });
await assert.rejects(client({ apiKey: "sk-of-nobody-at-all" }).models.list(), OpenAI.AuthenticationError);

await assert.rejects(ask({ max_tokens: 100 }, { timeout: 50 }), OpenAI.APIConnectionTimeoutError);
const stream = await ask({ stream: true, max_tokens: 100 });
for await (const _ of stream) break;
stream.controller.abort();
const controller = new AbortController();
setTimeout(() => controller.abort(), 50);
await assert.rejects(ask({ max_tokens: 100 }, { signal: controller.signal }), OpenAI.APIUserAbortError);
// Whoever comes after them is answered.
const answers = await Promise.all([ask(), ask(), ask()]);
assert(answers.every((answer) => answer.choices[0].message.content === text));
console.log("ok");
