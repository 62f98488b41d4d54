// OpenAI's JavaScript SDK, unmodified, against a gateway: test_sdk.mjs WORKER MODEL ENCODER starts one and stops it.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import OpenAI from "openai";

const [worker, model, encoder] = process.argv.slice(2);
const KEY = "sk-of-this-test-alone";
const MESSAGES = [{ role: "user", content: "What is the capital of France?" }];
// Some thousands of tokens.
const LONG = { messages: MESSAGES, n: 8, max_tokens: 4000, seed: 1, temperature: 2 };

/** A gateway on a free port, with an API key. */
class Gateway {
  static async start(...options) {
    const gateway = new Gateway();
    gateway.home = mkdtempSync(join(tmpdir(), "gateway-"));
    const keys = join(gateway.home, "keys");
    writeFileSync(keys, `${KEY}\n`, { mode: 0o600 });
    const args = ["serve", "--home", gateway.home, "--model", model, "--listen", "127.0.0.1:0"];
    const stdio = ["ignore", "pipe", "inherit"];
    gateway.process = spawn(worker, [...args, "--api-key-file", keys, ...options], { stdio });
    gateway.ended = new Promise((resolve) => gateway.process.once("exit", resolve));
    const lines = createInterface({ input: gateway.process.stdout })[Symbol.asyncIterator]();
    gateway.url = (await lines.next()).value?.trim();
    assert(gateway.url, "the gateway did not start");
    return gateway;
  }

  client(options = {}) {
    return new OpenAI({ baseURL: this.url, apiKey: KEY, maxRetries: 0, ...options });
  }

  async stop() {
    this.process.kill("SIGTERM");
    const code = await this.ended;
    rmSync(this.home, { recursive: true });
    return code;
  }
}

const gateway = await Gateway.start("--encoder", encoder);
const client = gateway.client();
const name = (await client.models.list()).data[0].id;
const ask = (more = {}, options = {}) =>
  client.chat.completions.create(
    { model: name, messages: MESSAGES, max_tokens: 16, temperature: 0, ...more },
    options,
  );

/** A request of this kind is answered soon: nothing else occupies the engine. */
async function freeSoon() {
  const began = performance.now();
  await ask({ max_tokens: 1 });
  assert(performance.now() - began < 5000);
}

const tests = {
  async chat() {
    const answer = await ask();
    assert.match(answer.choices[0].message.content, /Paris/);
    assert(["stop", "length"].includes(answer.choices[0].finish_reason));
    const { prompt_tokens, completion_tokens, total_tokens } = answer.usage;
    assert.equal(total_tokens, prompt_tokens + completion_tokens);
    // An answer goes back as it came.
    const more = [...MESSAGES, answer.choices[0].message, { role: "user", content: "And of Italy?" }];
    assert((await ask({ messages: more, max_tokens: 2 })).usage.prompt_tokens > prompt_tokens);
    const { response } = await ask({ temperature: 1, max_tokens: 1 }).withResponse();
    assert.match(response.headers.get("x-deepnode-seed"), /^\d+$/);
  },

  async stream() {
    const options = { temperature: 0.8, seed: 11, max_tokens: 12 };
    const whole = await ask(options);
    let [text, usage] = ["", null];
    const stream = await ask({ ...options, stream: true, stream_options: { include_usage: true } });
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? "";
      usage = chunk.usage ?? usage;
    }
    assert.equal(text, whole.choices[0].message.content);
    assert.deepEqual(usage, whole.usage);
    // The SDK's own way of putting a stream together.
    const model = { model: name, messages: MESSAGES, ...options };
    const final = await client.chat.completions.stream(model).finalChatCompletion();
    assert.equal(final.choices[0].message.content, text);
  },

  async completion() {
    const prompt = "The capital of France is";
    const answer = await client.completions.create({ model: name, prompt, temperature: 0, max_tokens: 3 });
    assert.match(answer.choices[0].text, /Paris/);
  },

  async errors() {
    const bad = (more) => assert.rejects(ask(more), OpenAI.BadRequestError);
    await bad({ temperature: -1 });
    await assert.rejects(ask({ frequency_penalty: 1 }), { status: 400, param: "frequency_penalty" });
    await assert.rejects(ask({ messages: [{ role: "user", content: "so long ".repeat(20_000) }] }), {
      code: "context_length_exceeded",
    });
    await assert.rejects(ask({ model: "gpt-4" }), OpenAI.NotFoundError);
    await assert.rejects(gateway.client({ apiKey: "sk-of-nobody-at-all" }).models.list(), OpenAI.AuthenticationError);
  },

  async embeddings() {
    const texts = ["A cat sits on the mat.", "The bank raised its interest rates."];
    const embed = (more) => client.embeddings.create({ model: "all-minilm-l6-v2", input: texts, ...more });
    // The SDK asks for base64 where nothing is said, and decodes it.
    const vectors = (await embed()).data.map((data) => Array.from(data.embedding));
    assert.deepEqual(vectors.map((vector) => vector.length), [384, 384]);
    const plain = await embed({ encoding_format: "float" });
    assert.deepEqual(plain.data.map((data) => data.embedding), vectors);
    assert.equal(plain.usage.total_tokens, plain.usage.prompt_tokens);
    assert.equal(typeof (await embed({ encoding_format: "base64" })).data[0].embedding, "string");
    await assert.rejects(embed({ dimensions: 128 }), { status: 400, param: "dimensions" });
    await assert.rejects(embed({ input: "so long ".repeat(300) }), { code: "context_length_exceeded" });
    await assert.rejects(embed({ model: name }), OpenAI.NotFoundError);
    await assert.rejects(ask({ model: "all-minilm-l6-v2" }), { status: 400, param: "model" });
  },

  async cancelledStream() {
    const stream = await client.chat.completions.create({ model: name, ...LONG, stream: true });
    for await (const _ of stream) break;
    stream.controller.abort();
    await freeSoon();
  },

  async cancelledRequest() {
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 300);
    const request = client.chat.completions.create({ model: name, ...LONG }, { signal: controller.signal });
    await assert.rejects(request, OpenAI.APIUserAbortError);
    await freeSoon();
  },

  async timeoutOfTheClient() {
    const hasty = gateway.client({ timeout: 1000 });
    const request = hasty.chat.completions.create({ model: name, ...LONG });
    await assert.rejects(request, OpenAI.APIConnectionTimeoutError);
    await freeSoon();
  },

  async timeoutOfTheServer() {
    const hasty = await Gateway.start("--timeout", "1");
    const began = performance.now();
    // The answer says that trying again makes no sense, so the SDK does not.
    const request = hasty.client({ maxRetries: 2 }).chat.completions.create({ model: name, ...LONG });
    await assert.rejects(request, { status: 504, code: "timeout" });
    assert(performance.now() - began < 4000);
    const stream = await hasty.client().chat.completions.create({ model: name, ...LONG, stream: true });
    await assert.rejects(async () => {
      for await (const _ of stream);
    }, OpenAI.APIError);
    assert.equal(await hasty.stop(), 0);
  },

  async tools() {
    // This model's template has no place for tools: refused by name, and not passed over.
    const tools = [{ type: "function", function: { name: "f", parameters: { type: "object" } } }];
    await assert.rejects(ask({ tools }), { status: 400, param: "tools" });
  },
};

let failed = 0;
for (const [what, test] of Object.entries(tests)) {
  try {
    await test();
    console.log(`${what} ... ok`);
  } catch (error) {
    failed += 1;
    console.log(`${what} ... FAILED`, error);
  }
}
const code = await gateway.stop();
const sdk = JSON.parse(readFileSync(new URL("package.json", import.meta.resolve("openai"))));
const count = Object.keys(tests).length;
console.log(failed ? `FAILED ${failed}` : `ok ${count} tests with openai ${sdk.version} on Node ${process.version}`);
process.exit(failed || code !== 0 ? 1 : 0);
