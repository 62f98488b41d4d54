"""OpenAI's Python SDK, unmodified, against a gateway: test_sdk.py WORKER MODEL ENCODER starts one and stops it."""

import os
import subprocess
import sys
import tempfile
import time
import unittest

import openai

MODEL = None  # the name under which the gateway lists its model
ENCODER = "all-minilm-l6-v2"
KEY = "sk-of-this-test-alone"
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]

# Some thousands of tokens.
LONG = {"messages": MESSAGES, "n": 8, "max_tokens": 4000, "seed": 1, "temperature": 2}


class Gateway:
    """A gateway on a free port, with an API key."""

    def __init__(self, *options):
        self.home = tempfile.TemporaryDirectory()
        keys = self.home.name + "/keys"
        with open(os.open(keys, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(KEY + "\n")
        command = [sys.argv[1], "serve", "--home", self.home.name, "--model", sys.argv[2]]
        command += ["--listen", "127.0.0.1:0", "--api-key-file", keys, *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().strip()
        assert self.url, "the gateway did not start"

    def client(self, **options):
        return openai.OpenAI(base_url=self.url, **{"api_key": KEY, "max_retries": 0, **options})

    def stop(self):
        self.process.terminate()
        code = self.process.wait(timeout=30)
        self.process.stdout.close()
        self.home.cleanup()
        return code


class Sdk(unittest.TestCase):
    def setUp(self):
        self.client = gateway.client()

    def chat(self, **options):
        given = {"model": MODEL, "messages": MESSAGES, "max_tokens": 16, "temperature": 0, **options}
        return self.client.chat.completions.create(**given)

    def test_models(self):
        models = [model.id for model in self.client.models.list()]
        self.assertIn(MODEL, models)
        self.assertEqual(self.client.models.retrieve(MODEL).id, MODEL)

    def test_chat(self):
        answer = self.chat()
        self.assertIn("Paris", answer.choices[0].message.content)
        self.assertEqual(answer.choices[0].message.role, "assistant")
        self.assertIn(answer.choices[0].finish_reason, ("stop", "length"))
        self.assertTrue(answer.system_fingerprint.startswith("canon/1-"))
        usage = answer.usage
        self.assertEqual(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
        self.assertTrue(0 < usage.completion_tokens <= 16)
        # An answer goes back as the SDK dumps it.
        more = MESSAGES + [answer.choices[0].message.model_dump(), {"role": "user", "content": "And of Italy?"}]
        self.assertGreater(self.chat(messages=more, max_tokens=2).usage.prompt_tokens, usage.prompt_tokens)

    def test_stream(self):
        options = {"temperature": 0.8, "seed": 11, "max_tokens": 12}
        whole = self.chat(**options)
        chunks = list(self.chat(stream=True, stream_options={"include_usage": True}, **options))
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        self.assertEqual(text, whole.choices[0].message.content)
        self.assertEqual(chunks[-1].usage, whole.usage)
        self.assertEqual([c.id for c in chunks], [chunks[0].id] * len(chunks))

    def test_seed_and_choices(self):
        one = self.chat(temperature=1.2, seed=5, n=2, max_tokens=8)
        two = self.chat(temperature=1.2, seed=5, n=2, max_tokens=8)
        self.assertEqual(one.choices, two.choices)
        self.assertNotEqual(one.choices[0].message.content, one.choices[1].message.content)

    def test_logprobs(self):
        options = {"logprobs": True, "top_logprobs": 2, "n": 2}
        whole = self.chat(**options)
        for choice in whole.choices:
            content = choice.logprobs.content
            text = b"".join(bytes(token.bytes) for token in content).decode()
            self.assertEqual(text, choice.message.content)
            for token in content:
                # Greedy: the likeliest one.
                self.assertEqual(token.logprob, token.top_logprobs[0].logprob)
                self.assertEqual(len(token.top_logprobs), 2)
        streamed = [[], []]
        for chunk in self.chat(stream=True, **options):
            for choice in chunk.choices:
                streamed[choice.index] += choice.logprobs.content if choice.logprobs else []
        self.assertEqual(streamed, [choice.logprobs.content for choice in whole.choices])
        old = self.client.completions.create(model=MODEL, prompt="The capital of France is", temperature=0, max_tokens=3, logprobs=3)
        told = old.choices[0].logprobs
        self.assertEqual("".join(told.tokens), old.choices[0].text)
        self.assertEqual(told.token_logprobs, [max(top.values()) for top in told.top_logprobs])

    def test_stop(self):
        self.assertNotIn("Paris", self.chat(stop=["Paris"]).choices[0].message.content)

    def test_completion(self):
        answer = self.client.completions.create(model=MODEL, prompt="The capital of France is", temperature=0, max_tokens=3)
        self.assertIn("Paris", answer.choices[0].text)

    def test_errors(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.chat(temperature=-1)
        self.assertEqual((caught.exception.param, caught.exception.code), ("temperature", "invalid_value"))
        with self.assertRaises(openai.BadRequestError) as caught:
            self.chat(logprobs=True, top_logprobs=21)
        self.assertEqual(caught.exception.param, "top_logprobs")
        with self.assertRaises(openai.BadRequestError) as caught:
            self.chat(messages=[{"role": "user", "content": "so long " * 20_000}])
        self.assertEqual(caught.exception.code, "context_length_exceeded")
        with self.assertRaises(openai.NotFoundError):
            self.chat(model="gpt-4")
        with self.assertRaises(openai.AuthenticationError):
            gateway.client(api_key="sk-of-nobody-at-all").models.list()

    def embed(self, texts, **options):
        return self.client.embeddings.create(model=ENCODER, input=texts, **options)

    def test_embeddings(self):
        texts = ["A cat sits on the mat.", "A kitten is on the rug.", "The bank raised its interest rates."]
        # The SDK asks for base64 where nothing is said, and decodes it.
        answer = self.embed(texts)
        vectors = [data.embedding for data in answer.data]
        self.assertEqual([len(vector) for vector in vectors], [384] * 3)
        self.assertEqual([data.index for data in answer.data], [0, 1, 2])
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens)
        self.assertGreater(answer.usage.prompt_tokens, 15)
        plain = [data.embedding for data in self.embed(texts, encoding_format="float").data]
        self.assertEqual(plain, vectors)
        self.assertIsInstance(self.embed(texts[0], encoding_format="base64").data[0].embedding, str)
        self.assertEqual(self.embed(texts[2]).data[0].embedding, vectors[2])
        like = lambda a, b: sum(x * y for x, y in zip(vectors[a], vectors[b]))
        self.assertAlmostEqual(like(0, 0), 1, places=2)
        self.assertTrue(like(0, 1) > 0.5 > 0.3 > like(0, 2))
        self.assertEqual(len(self.embed([101, 4937, 102]).data), 1)

    def test_errors_of_embeddings(self):
        for param, code, options in [
            ("dimensions", "unsupported_parameter", {"dimensions": 128}),
            ("input[1]", "context_length_exceeded", {"texts": ["a", "so long " * 300]}),
            ("input[0]", "invalid_value", {"texts": [""]}),
            ("input", "invalid_value", {"texts": []}),
        ]:
            with self.assertRaises(openai.BadRequestError) as caught:
                self.embed(options.pop("texts", "a"), **options)
            self.assertEqual((caught.exception.param, caught.exception.code), (param, code))
        with self.assertRaises(openai.NotFoundError):
            self.client.embeddings.create(model=MODEL, input="text")
        with self.assertRaises(openai.BadRequestError) as caught:
            self.chat(model=ENCODER)
        self.assertEqual(caught.exception.param, "model")

    def free_soon(self):
        began = time.monotonic()
        self.chat(max_tokens=1)
        self.assertLess(time.monotonic() - began, 5)

    def test_timeout_of_the_client_frees_the_engine(self):
        with self.assertRaises(openai.APITimeoutError):
            gateway.client(timeout=1).chat.completions.create(model=MODEL, **LONG)
        self.free_soon()

    def test_a_stream_that_is_closed_frees_the_engine(self):
        with self.client.chat.completions.create(model=MODEL, stream=True, **LONG) as stream:
            next(iter(stream))
        self.free_soon()

    def test_timeout_of_the_server(self):
        hasty = Gateway("--timeout", "1")
        try:
            long = {"model": MODEL, **LONG}
            began = time.monotonic()
            with self.assertRaises(openai.InternalServerError) as caught:
                # The answer says that trying again makes no sense, so the SDK does not.
                hasty.client(max_retries=2).chat.completions.create(**long)
            self.assertEqual((caught.exception.status_code, caught.exception.code), (504, "timeout"))
            self.assertLess(time.monotonic() - began, 4)
            with self.assertRaises(openai.APIError):
                for _ in hasty.client().chat.completions.create(stream=True, **long):
                    pass
        finally:
            self.assertEqual(hasty.stop(), 0)


if __name__ == "__main__":
    gateway = Gateway("--encoder", sys.argv[3])
    try:
        MODEL = next(iter(gateway.client().models.list())).id
        tests = unittest.defaultTestLoader.loadTestsFromTestCase(Sdk)
        result = unittest.TextTestRunner(verbosity=2).run(tests)
    finally:
        code = gateway.stop()
    print(f"ok {result.testsRun} tests with openai {openai.__version__}" if result.wasSuccessful() else "FAILED")
    sys.exit(not result.wasSuccessful() or code != 0)
