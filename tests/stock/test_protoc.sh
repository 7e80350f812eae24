#!/bin/sh
# The published .proto files, as a stranger would use them: stock protoc makes C++ that compiles and
# Python that imports, and there is no import that only C has. Argument: proto folder.
set -eu
command -v protoc >/dev/null || { echo "skipped: there is no protoc"; exit 77; }
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

! grep -rn "^import" "$1" --include=*.proto || { echo "an import that clients would need"; exit 1; }
files=$(cd "$1" && find . -name '*.proto' -printf '%P\n')
# shellcheck disable=SC2086 # a list of words
protoc -I "$1" --cpp_out="$out" --python_out="$out" $files
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
# ErrorStatus reads what google.rpc.Status writes: code, message, Any of type and bytes.
detail = pb.ErrorDetail(reason="R", retryable=False)
value = detail.SerializeToString()
any_message = b"\x0a\x01t\x12" + bytes([len(value)]) + value
status = pb.ErrorStatus.FromString(b"\x08\x05\x12\x01m\x1a" + bytes([len(any_message)]) + any_message)
assert status.code == 5 and status.message == "m" and status.details[0].value == detail
for message in pb.DESCRIPTOR.message_types_by_name.values():
    for field in message.fields:
        if field.label != field.LABEL_REPEATED:
            assert field.has_presence, field.full_name
P
command -v g++ >/dev/null && [ -e /usr/include/google/protobuf/message.h ] ||
  { echo "skipped: the C++ half needs g++ and libprotobuf-dev"; exit 77; }
find "$out" -name '*.pb.cc' -exec g++ -std=c++17 -fsyntax-only -I "$out" {} +
echo "ok"
