"""gRPC's standard services with the stock Python client: reflection as grpcio-reflection does it, health as
it is watched, by hand and by grpc-core itself."""

import json
import os
import queue
import subprocess
import sys
import tempfile
import unittest

try:
    import grpc
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
except ImportError as error:
    print("skipped: %s (python3-grpcio, python3-protobuf)" % error)
    sys.exit(77)

from peers import Daemon, Upstream

BINARY, PROTO, GENERATED = sys.argv[1:4]
FILES = ["completion/v1/completion.proto", "completion/v1/status.proto", "grpc/health/v1/health.proto",
         "grpc/reflection/v1/reflection.proto", "grpc/reflection/v1alpha/reflection.proto"]
SERVICES = ["completion.v1.Completions", "completion.v1.Status", "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]


def message_class(pool, name):
    descriptor = pool.FindMessageTypeByName(name)
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    return message_factory.MessageFactory(pool).GetPrototype(descriptor)


def compile_files():
    """What protoc makes of the published files."""
    with tempfile.TemporaryDirectory() as directory:
        out = os.path.join(directory, "set")
        subprocess.run(["protoc", "-I", PROTO, "-I", GENERATED, "--descriptor_set_out", out] + FILES,
                       check=True)
        with open(out, "rb") as file:
            return descriptor_pb2.FileDescriptorSet.FromString(file.read())


def symbols_of(package, file):
    """The full name of everything in a file."""
    def of_message(scope, message):
        name = scope + "." + message.name
        yield name
        for part in list(message.field) + list(message.oneof_decl):
            yield name + "." + part.name
        for enum in message.enum_type:
            yield from of_enum(name, enum)
        for nested in message.nested_type:
            yield from of_message(name, nested)

    def of_enum(scope, enum):
        yield scope + "." + enum.name
        for value in enum.value:
            yield scope + "." + value.name

    for message in file.message_type:
        yield from of_message(package, message)
    for enum in file.enum_type:
        yield from of_enum(package, enum)
    for service in file.service:
        yield package + "." + service.name
        for method in service.method:
            yield package + "." + service.name + "." + method.name


class Reflection:
    """A client that knows nothing but the reflection protocol itself."""

    def __init__(self, channel, pool, version):
        package = "grpc.reflection." + version + "."
        self.request = message_class(pool, package + "ServerReflectionRequest")
        reply = message_class(pool, package + "ServerReflectionResponse")
        self.call = channel.stream_stream("/" + package + "ServerReflection/ServerReflectionInfo",
                                          self.request.SerializeToString, reply.FromString)

    def ask(self, **question):
        replies = list(self.call(iter([self.request(**question)])))
        assert len(replies) == 1
        return replies[0]

    def file_of(self, symbol):
        reply = self.ask(file_containing_symbol=symbol)
        files = reply.file_descriptor_response.file_descriptor_proto
        return descriptor_pb2.FileDescriptorProto.FromString(files[0])


class StandardServices(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.files = compile_files()
        cls.pool = descriptor_pool.DescriptorPool()
        for file in cls.files.file:
            cls.pool.Add(file)
        cls.upstream = Upstream()
        cls.daemon = Daemon(BINARY, cls.upstream.base_url)

    @classmethod
    def tearDownClass(cls):
        status = cls.daemon.stop()
        if status != 0:
            raise AssertionError("the daemon ended with status %d" % status)

    def setUp(self):
        self.channel = grpc.insecure_channel("unix:" + self.daemon.socket)
        self.versions = [Reflection(self.channel, self.pool, version) for version in ("v1", "v1alpha")]

    def tearDown(self):
        self.channel.close()

    def watch_on(self, channel, service):
        request = message_class(self.pool, "grpc.health.v1.HealthCheckRequest")
        reply = message_class(self.pool, "grpc.health.v1.HealthCheckResponse")
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch", request.SerializeToString,
                                     reply.FromString)
        return watch(request(service=service))

    # Reflection

    def test_services_are_listed(self):
        for reflection in self.versions:
            reply = reflection.ask(list_services="*", host="here")
            self.assertEqual([s.name for s in reply.list_services_response.service], SERVICES)
            self.assertEqual(reply.valid_host, "here")
            self.assertEqual(reply.original_request.list_services, "*")

    def test_files_are_those_that_are_published(self):
        for reflection in self.versions:
            for file in self.files.file:
                reply = reflection.ask(file_by_filename=file.name)
                told = reply.file_descriptor_response.file_descriptor_proto
                self.assertEqual([descriptor_pb2.FileDescriptorProto.FromString(f) for f in told], [file])

    def test_a_client_without_any_proto_calls(self):
        for reflection in self.versions:
            file = reflection.file_of("completion.v1.Completions.Create")
            pool = descriptor_pool.DescriptorPool()
            pool.Add(file)
            method = file.service[0].method[0]
            request = message_class(pool, method.input_type[1:])
            reply = message_class(pool, method.output_type[1:])
            create = self.channel.unary_unary("/completion.v1.Completions/" + method.name,
                                              request.SerializeToString, reply.FromString)
            answer = create(request(model="echo", prompt_string="hello"))
            self.assertEqual(answer.choices[0].text, "hello")

    def test_every_symbol_is_found_on_one_stream(self):
        for reflection in self.versions:
            expected = [(symbol, file.name) for file in self.files.file
                        for symbol in symbols_of(file.package, file)]
            self.assertGreater(len(expected), 200)
            requests = [reflection.request(file_containing_symbol=symbol) for symbol, _ in expected]
            found = []
            for reply in reflection.call(iter(requests)):
                files = reply.file_descriptor_response.file_descriptor_proto
                found.append((reply.original_request.file_containing_symbol,
                              files and descriptor_pb2.FileDescriptorProto.FromString(files[0]).name))
            self.assertEqual(found, expected)

    def test_answers_come_while_the_client_asks(self):
        for reflection in self.versions:
            questions = queue.Queue()
            replies = reflection.call(iter(questions.get, None))
            for file in self.files.file:
                questions.put(reflection.request(file_by_filename=file.name))
                self.assertEqual(next(replies).original_request.file_by_filename, file.name)
            questions.put(None)
            self.assertEqual(list(replies), [])
            self.assertEqual(replies.code(), grpc.StatusCode.OK)

    def test_what_is_not_there_is_said(self):
        for reflection in self.versions:
            for question in ({"file_by_filename": "x"}, {"file_containing_symbol": "x"},
                             {"all_extension_numbers_of_type": "x"},
                             {"file_containing_extension": {"containing_type": "completion.v1.Completion",
                                                            "extension_number": 1}}):
                reply = reflection.ask(**question)
                self.assertEqual(reply.error_response.error_code, grpc.StatusCode.NOT_FOUND.value[0])
            reply = reflection.ask(all_extension_numbers_of_type="completion.v1.Completion")
            numbers = reply.all_extension_numbers_response
            self.assertEqual(numbers.base_type_name, "completion.v1.Completion")
            self.assertEqual(list(numbers.extension_number), [])
            self.assertEqual(reflection.ask().error_response.error_code,
                             grpc.StatusCode.UNIMPLEMENTED.value[0])

    # Health

    def test_watch_tells_until_it_is_cancelled(self):
        for service, expected in (("", 1), ("completion.v1.Completions", 1), ("other", 3)):
            call = self.watch_on(self.channel, service)
            self.assertEqual(next(call).status, expected)
            call.cancel()
            with self.assertRaises(grpc.RpcError):
                next(call)
            self.assertEqual(call.code(), grpc.StatusCode.CANCELLED)

    def test_watch_tells_of_the_end(self):
        daemon = Daemon(BINARY, self.upstream.base_url)
        with grpc.insecure_channel("unix:" + daemon.socket) as channel:
            call = self.watch_on(channel, "")
            self.assertEqual(next(call).status, 1)
            daemon.process.terminate()
            self.assertEqual(next(call).status, 2)
            with self.assertRaises(grpc.RpcError) as caught:
                next(call)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)
            self.assertEqual(daemon.wait(), 0)

    def health_checked(self, service):
        """A channel that watches by itself, and calls only what is healthy."""
        config = {"loadBalancingConfig": [{"round_robin": {}}],
                  "healthCheckConfig": {"serviceName": service}}
        return grpc.insecure_channel("unix:" + self.daemon.socket,
                                     options=[("grpc.service_config", json.dumps(config))])

    def test_core_believes_what_it_watches(self):
        request = message_class(self.pool, "completion.v1.CreateCompletionRequest")
        for service, code in (("completion.v1.Completions", None), ("other", grpc.StatusCode.UNAVAILABLE)):
            with self.health_checked(service) as channel:
                create = channel.unary_unary("/completion.v1.Completions/Create",
                                             request.SerializeToString)
                try:
                    create(request(model="echo", prompt_string="x"), timeout=20)
                    self.assertIsNone(code)
                except grpc.RpcError as error:
                    self.assertEqual(error.code(), code)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
