"""The stock Python client (grpc-core): everything that a caller of it would do."""

import importlib
import os
import subprocess
import sys
import tempfile
import threading
import unittest

try:
    import grpc
    from google.protobuf import any_pb2  # noqa: F401
except ImportError as error:
    print("skipped: %s (python3-grpcio, python3-protobuf)" % error)
    sys.exit(77)

from peers import Daemon, Upstream

BINARY, PROTO = sys.argv[1:3]


def make_stubs(directory):
    """As grpcio-tools would make them, with the stock protoc."""
    subprocess.run(
        ["protoc", "-I", PROTO, "--python_out", directory, "completion/v1/completion.proto",
         "grpc/health/v1/health.proto"], check=True)
    # Debian's grpc package is a package of its own: health_pb2 must not hide it.
    sys.path.insert(0, directory)
    completion = importlib.import_module("completion.v1.completion_pb2")
    path = os.path.join(directory, "grpc/health/v1/health_pb2.py")
    spec = importlib.util.spec_from_file_location("health_pb2", path)
    health = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(health)
    return completion, health


class StatusReader:
    """google.rpc.Status, which python3-grpc-status would bring: fields 1, 2 and 3."""

    def __init__(self, data):
        self.details = []
        self.fields = dict(self.parse(data))

    def parse(self, data):
        from google.protobuf.internal import decoder
        position = 0
        while position < len(data):
            tag, position = decoder._DecodeVarint(data, position)
            if tag & 7 == 0:
                value, position = decoder._DecodeVarint(data, position)
            else:
                length, position = decoder._DecodeVarint(data, position)
                value = data[position:position + length]
                position += length
            if tag >> 3 == 3:
                any_message = any_pb2.Any()
                any_message.ParseFromString(value)
                self.details.append(any_message)
            yield tag >> 3, value


class StockClient(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.stubs = tempfile.TemporaryDirectory()
        cls.pb, cls.health = make_stubs(cls.stubs.name)
        cls.upstream = Upstream()
        cls.daemon = Daemon(BINARY, cls.upstream.base_url)

    @classmethod
    def tearDownClass(cls):
        status = cls.daemon.stop()
        cls.stubs.cleanup()
        if status != 0:
            raise AssertionError("the daemon ended with status %d" % status)

    def setUp(self):
        self.channel = grpc.insecure_channel("unix:" + self.daemon.socket)
        service = "/completion.v1.Completions/"
        request = self.pb.CreateCompletionRequest.SerializeToString
        reply = self.pb.Completion.FromString
        self.create = self.channel.unary_unary(service + "Create", request, reply)
        self.stream = self.channel.unary_stream(service + "CreateStream", request, reply)

    def tearDown(self):
        self.channel.close()

    def request(self, model, **fields):
        return self.pb.CreateCompletionRequest(model=model, **fields)

    def test_unary(self):
        answer = self.create(self.request("echo", prompt_string="a b\0c \u00e9", seed=-2**63))
        self.assertEqual(answer.choices[0].text, "a b\0c \u00e9")
        self.assertEqual(answer.choices[0].finish_reason, self.pb.FINISH_REASON_STOP)
        self.assertEqual(answer.usage.total_tokens, 3)
        self.assertFalse(answer.HasField("system_fingerprint"))

    def test_stream(self):
        texts = [c.choices[0].text
                 for c in self.stream(self.request("echo", prompt_string="one two three"))]
        self.assertEqual(texts, ["one", "two", "three", ""])

    def test_ten_at_once(self):
        calls = [self.stream(self.request("echo", prompt_string="w " * 50 + str(i)))
                 for i in range(10)]
        for i, call in enumerate(calls):
            texts = [c.choices[0].text for c in call]
            self.assertEqual(texts, ["w"] * 50 + [str(i), ""])
            self.assertEqual(call.code(), grpc.StatusCode.OK)

    def test_error_with_details(self):
        with self.assertRaises(grpc.RpcError) as caught:
            self.create(self.request("refused"))
        error = caught.exception
        self.assertEqual(error.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.assertIn("slow down \u00e9 100%", error.details())
        trailers = dict(error.trailing_metadata())
        status = StatusReader(trailers["grpc-status-details-bin"])
        self.assertEqual(status.fields[1], grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])
        detail = self.pb.ErrorDetail()
        self.assertTrue(status.details[0].Unpack(detail))
        self.assertEqual(detail.http_status, 429)
        self.assertEqual(detail.type, "requests")
        self.assertEqual(detail.code, "rate_limit_exceeded")
        self.assertEqual(detail.upstream_request_id, "req_42")
        self.assertEqual(detail.retry_after_ms, 1500)
        self.assertFalse(detail.HasField("param"))

    def test_invalid_argument_names_the_field(self):
        with self.assertRaises(grpc.RpcError) as caught:
            self.create(self.request("echo", temperature=3))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
        self.assertIn("temperature", caught.exception.details())

    def test_unknown_method(self):
        call = self.channel.unary_unary("/completion.v1.Completions/Nothing")
        with self.assertRaises(grpc.RpcError) as caught:
            call(b"")
        self.assertEqual(caught.exception.code(), grpc.StatusCode.UNIMPLEMENTED)

    def test_message_too_large(self):
        with self.assertRaises(grpc.RpcError) as caught:
            self.create(self.request("echo", prompt_string="x" * (5 << 20)))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)

    def test_cancel_closes_the_upstream(self):
        call = self.stream(self.request("endless"))
        self.assertEqual(next(call).choices[0].text, "first")
        call.cancel()
        self.assertEqual(self.upstream.closed.get(timeout=20), "endless")

    def test_deadline_closes_the_upstream(self):
        with self.assertRaises(grpc.RpcError) as caught:
            self.create(self.request("silent"), timeout=0.3)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.assertEqual(self.upstream.closed.get(timeout=20), "silent")

    def test_cut_stream_is_no_success(self):
        call = self.stream(self.request("cut"))
        self.assertEqual(next(call).choices[0].text, "half")
        with self.assertRaises(grpc.RpcError) as caught:
            next(call)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)
        self.upstream.closed.get(timeout=20)

    def test_slow_reader_holds_up_its_own_upstream(self):
        call = self.stream(self.request("flood"))
        self.assertEqual(next(call).choices[0].text[:8], "00000000")
        # Others are served while nobody reads; the flood stands still long before its end.
        for _ in range(200):
            self.create(self.request("echo", prompt_string="x"))
        self.assertLess(self.upstream.sent, 2000)
        numbers = [int(c.choices[0].text[:8]) for c in call if c.choices[0].text]
        self.assertEqual(numbers, list(range(1, 2000)))
        self.assertEqual(call.code(), grpc.StatusCode.OK)

    def test_health(self):
        check = self.channel.unary_unary(
            "/grpc.health.v1.Health/Check", self.health.HealthCheckRequest.SerializeToString,
            self.health.HealthCheckResponse.FromString)
        for service in ("", "completion.v1.Completions"):
            reply = check(self.health.HealthCheckRequest(service=service))
            self.assertEqual(reply.status, self.health.HealthCheckResponse.SERVING)
        with self.assertRaises(grpc.RpcError) as caught:
            check(self.health.HealthCheckRequest(service="other"))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)

    def test_many_threads_on_one_channel(self):
        answers = {}

        def ask(i):
            answers[i] = self.create(self.request("echo", prompt_string=str(i))).choices[0].text

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(answers, {i: str(i) for i in range(32)})


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
