"""What the tests with stock clients have in common: a daemon of their own, and an upstream that does
as it is told. Everything listens in a directory of the test's own."""

import json
import os
import queue
import shutil
import socket
import subprocess
import tempfile
import threading


class Upstream:
    """A server of the Completions API whose behaviour is chosen by the model's name; see serve()."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.base_url = "http://127.0.0.1:%d/v1" % self.listener.getsockname()[1]
        self.accepted = 0
        self.requests = queue.Queue()  # bodies, as objects
        self.closed = queue.Queue()  # one entry for each stream whose reader went away
        self.sent = 0  # chunks of the flood that were written
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.listener.accept()
            self.accepted += 1
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        stream = connection.makefile("rb")
        while True:
            length = 0
            line = stream.readline()
            if not line:
                connection.close()
                return
            while line not in (b"\r\n", b""):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
                line = stream.readline()
            body = json.loads(stream.read(length))
            self.requests.put(body)
            try:
                getattr(self, body["model"])(connection, body)
            except OSError:
                self.closed.put(body["model"])
                connection.close()
                return

    @staticmethod
    def respond(connection, status, content_type, body, more=""):
        head = "HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s\r\n"
        connection.sendall((head % (status, content_type, len(body), more)).encode() + body)

    @staticmethod
    def chunk(connection, data):
        connection.sendall(b"%x\r\n%s\r\n" % (len(data), data))

    @staticmethod
    def completion(text, finish_reason):
        return {
            "id": "cmpl-1",
            "object": "text_completion",
            "created": 1700000000,
            "model": "m",
            "choices": [
                {"text": text, "index": 0, "logprobs": None, "finish_reason": finish_reason}
            ],
        }

    def begin_stream(self, connection):
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )

    def event(self, connection, value):
        data = value if isinstance(value, str) else json.dumps(value)
        self.chunk(connection, b"data: " + data.encode() + b"\n\n")

    def await_close(self, connection):
        """Waits until the other side goes away: the generation would be stopped now."""
        while connection.recv(1):
            pass
        raise ConnectionResetError

    # Behaviours

    def echo(self, connection, body):
        """Gives the prompt back, in one piece or word by word."""
        prompt = body.get("prompt", "")
        if not body.get("stream"):
            answer = self.completion(prompt, "stop")
            answer["usage"] = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
            self.respond(connection, "200 OK", "application/json", json.dumps(answer).encode())
            return
        self.begin_stream(connection)
        for word in prompt.split(" "):
            self.event(connection, self.completion(word, None))
        self.event(connection, self.completion("", "stop"))
        self.event(connection, "[DONE]")
        self.chunk(connection, b"")

    def refused(self, connection, body):
        error = {"message": "slow down \u00e9 100%", "type": "requests", "param": None,
                 "code": "rate_limit_exceeded"}
        self.respond(connection, "429 Too Many Requests", "application/json",
                     json.dumps({"error": error}).encode(),
                     "x-request-id: req_42\r\nretry-after-ms: 1500\r\nx-should-retry: false\r\n")

    def silent(self, connection, body):
        self.await_close(connection)

    def endless(self, connection, body):
        """A chunk, and then nothing until the reader goes away."""
        self.begin_stream(connection)
        self.event(connection, self.completion("first", None))
        self.await_close(connection)

    def cut(self, connection, body):
        self.begin_stream(connection)
        self.event(connection, self.completion("half", None))
        connection.shutdown(socket.SHUT_RDWR)
        raise ConnectionResetError

    def flood(self, connection, body):
        """2,000 chunks of 8 KiB, as fast as they are taken."""
        self.begin_stream(connection)
        for i in range(2000):
            self.event(connection, self.completion("%08d" % i + "x" * 8184, None))
            self.sent = i + 1
        self.event(connection, self.completion("", "stop"))
        self.event(connection, "[DONE]")
        self.chunk(connection, b"")


class Daemon:
    def __init__(self, binary, base_url):
        self.directory = tempfile.mkdtemp(prefix="stock.")
        self.socket = os.path.join(self.directory, "rpc.sock")
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(os.path.join(self.directory, "notify"))
        notify.settimeout(30)
        environment = dict(os.environ, OPENAI_BASE_URL=base_url, OPENAI_API_KEY="sk-stock",
                           NOTIFY_SOCKET=notify.getsockname())
        config = os.path.join(self.directory, "conf")
        with open(config, "w") as file:
            file.write("[daemon]\nworkers = %s\n" %
                       os.environ.get("COMPLETIOND_TEST_WORKERS", "1"))
        self.process = subprocess.Popen(
            [binary, "--config", config, "--listen", self.socket], env=environment)
        while b"READY=1" not in notify.recv(4096):
            pass
        notify.close()

    def stop(self):
        """The exit status; not 0 if a sanitizer found something."""
        self.process.terminate()
        return self.wait()

    def wait(self):
        status = self.process.wait(60)
        shutil.rmtree(self.directory)
        return status
