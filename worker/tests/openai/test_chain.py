"""OpenAI's Python SDK, unmodified, against a gateway in front of a chain: test_chain.py URL."""

import sys
import threading
import unittest

import openai

URL = sys.argv.pop()
ASK = {"model": "test", "messages": [{"role": "user", "content": "Tell me of the sea."}], "seed": 5, "max_tokens": 12}


def client(**options):
    return openai.OpenAI(base_url=URL, **{"api_key": "sk-of-a-rich-one", "max_retries": 0, **options})


def chat(given=None, **options):
    return (given or client()).chat.completions.create(**{**ASK, **options})


class Chain(unittest.TestCase):
    def test_chat_and_stream(self):
        whole = chat(n=2)
        self.assertEqual(len({choice.deepnode["task"] for choice in whole.choices}), 2)
        texts = ["", ""]
        receipts = {}
        for chunk in chat(n=2, stream=True):
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                if choice.finish_reason:
                    receipts[choice.index] = chunk.deepnode["receipt_digest"]
        self.assertEqual(texts, [choice.message.content for choice in whole.choices])
        self.assertEqual(len(set(receipts.values())), 2)
        raw = client().chat.completions.with_raw_response.create(**ASK)
        self.assertEqual(raw.headers["x-deepnode-task"], str(raw.parse().deepnode["task"]))

    def test_embeddings(self):
        answer = client().embeddings.create(model="encoder", input=["the sea", "the sky"])
        self.assertEqual([item.index for item in answer.data], [0, 1])
        self.assertEqual(len({len(item.embedding) for item in answer.data}), 1)
        self.assertNotEqual(answer.data[0].embedding, answer.data[1].embedding)
        with self.assertRaises(openai.NotFoundError):
            client().embeddings.create(model="test", input="the sea")

    def test_errors(self):
        for options, param in [({"temperature": -1}, "temperature"), ({"logprobs": True}, "logprobs")]:
            with self.assertRaises(openai.BadRequestError) as caught:
                chat(**options)
            self.assertEqual(caught.exception.param, param)
        # The money of a day does not come back soon: the SDK does not try again by itself.
        with self.assertRaises(openai.RateLimitError) as caught:
            chat(client(api_key="sk-of-a-poor-one", max_retries=5, timeout=20))
        self.assertEqual(caught.exception.code, "insufficient_quota")
        with self.assertRaises(openai.AuthenticationError):
            client(api_key="sk-of-nobody-at-all").models.list()

    def test_timeout_and_cancellation(self):
        with self.assertRaises(openai.APITimeoutError):
            chat(client(timeout=0.05), max_tokens=100)
        stream = chat(stream=True, max_tokens=100)
        next(iter(stream))
        stream.close()
        # Whoever comes after them is answered.
        answers = []
        asking = [threading.Thread(target=lambda: answers.append(chat())) for _ in range(3)]
        [thread.start() for thread in asking]
        [thread.join(60) for thread in asking]
        self.assertEqual(len({answer.choices[0].message.content for answer in answers}), 1)
        self.assertEqual(len(answers), 3)


if __name__ == "__main__":
    unittest.main(verbosity=2)
