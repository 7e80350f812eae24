#!/bin/sh
# The published .proto files, as a stranger would use them: stock protoc makes C++ that compiles and
# Python that imports, and there is no import that only C has. Argument: proto folder.
set -eu
command -v protoc >/dev/null || { echo "skipped: there is no protoc"; exit 77; }
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

! grep -rn "^import" "$1" --include=*.proto || { echo "an import that clients would need"; exit 1; }
protoc -I "$1" --cpp_out="$out" --python_out="$out" completion/v1/completion.proto grpc/health/v1/health.proto
/usr/bin/python3 - "$out" <<'P'
import sys
try:
    import google.protobuf
except ImportError:
    sys.exit("skipped: python3-protobuf is not there")
sys.path.insert(0, sys.argv[1])
from completion.v1 import completion_pb2 as pb
# Presence: what is set to a zero value is there, what is not set is not.
request = pb.CreateCompletionRequest(temperature=0, echo=False, suffix="")
again = pb.CreateCompletionRequest.FromString(request.SerializeToString())
assert again.HasField("temperature") and again.HasField("echo") and again.HasField("suffix")
assert not again.HasField("n") and again.WhichOneof("prompt") is None
for message in pb.DESCRIPTOR.message_types_by_name.values():
    for field in message.fields:
        if field.label != field.LABEL_REPEATED:
            assert field.has_presence, field.full_name
P
command -v g++ >/dev/null && [ -e /usr/include/google/protobuf/message.h ] ||
  { echo "skipped: the C++ half needs g++ and libprotobuf-dev"; exit 77; }
g++ -std=c++17 -fsyntax-only -I "$out" "$out/completion/v1/completion.pb.cc" "$out/grpc/health/v1/health.pb.cc"
echo "ok"
