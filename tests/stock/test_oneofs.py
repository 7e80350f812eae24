"""Requests as the daemon understands them, beside protobuf's own decoder: oneofs that are set more
than once, messages that come in several parts, fields that are not known. Arguments: unpack-filter,
proto folder.
"""
import random
import struct
import subprocess
import sys
import tempfile

try:
    from google.protobuf import descriptor_pool  # noqa: F401
except ImportError:
    print("skipped: python3-protobuf is not there")
    sys.exit(77)

REFUSED = 0xFFFFFFFF
N_RANDOM = 20000


def load(proto):
    out = tempfile.mkdtemp()
    try:
        subprocess.run(["protoc", "-I", proto, "--python_out", out,
                        proto + "/completion/v1/completion.proto"], check=True)
    except FileNotFoundError:
        print("skipped: there is no protoc")
        sys.exit(77)
    sys.path.insert(0, out)
    from completion.v1 import completion_pb2
    subprocess.run(["rm", "-r", out], check=True)
    return completion_pb2


def varint(n):
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def field(number, value):
    """A number, a text, or a message that is given by its bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


class Numbers:
    """Of the request's fields, by name."""

    def __init__(self, pb):
        for f in pb.CreateCompletionRequest.DESCRIPTOR.fields:
            setattr(self, f.name, f.number)


def strings(*values):
    return b"".join(field(1, v) for v in values)


def tokens(*ids):
    return field(1, b"".join(varint(i) for i in ids))


def crafted(f):
    """Lists of fields."""
    a, b = field(f.prompt_string, "a"), field(f.prompt_string, "b")
    list_a = field(f.prompt_strings, strings("a", "aa"))
    list_b = field(f.prompt_strings, strings("b"))
    ids_a = field(f.prompt_tokens, tokens(1, 2))
    ids_b = field(f.prompt_tokens, tokens(3))
    arrays = field(f.prompt_token_arrays, field(1, tokens(4, 5)) + field(1, tokens(6)))
    unknown = [field(1000, "?"), varint(1001 << 3 | 1) + bytes(8), varint(1002 << 3 | 5) + bytes(4)]
    stop, stops = field(f.stop_string, "s"), field(f.stop_strings, strings("t"))
    options_a, options_b = field(f.stream_options, field(1, 1)), field(f.stream_options, field(2, 0))
    within = field(f.prompt_strings, strings("a") + b"".join(unknown))
    empty = field(f.prompt_strings, b"")
    return {
        "once": [a],
        "twice": [a, b],
        "another one": [a, list_b],
        "there and back": [a, list_b, b],
        "a message twice": [list_a, list_b],
        "a message twice, with something between": [list_a, field(f.n, 1), *unknown, list_b],
        "a message twice, with another one between": [list_a, a, list_b],
        "numbers twice": [ids_a, ids_b],
        "lists of numbers": [arrays, arrays],
        "all": [a, list_a, ids_a, arrays],
        "all, backwards": [arrays, ids_a, list_a, a],
        "all, and again": [a, list_a, ids_a, arrays] * 2,
        "an empty one first": [empty, list_a],
        "an empty one last": [list_a, empty],
        "empty text": [a, field(f.prompt_string, "")],
        "two oneofs": [stop, a, stops, list_a, stop],
        "two oneofs, one in parts": [stops, list_a, stops],
        "a message that is in none": [options_a, options_b, options_a],
        "a number twice": [field(f.n, 1), field(f.n, 2)],
        "not known": [*unknown, a, *unknown],
        "not known within": [within],
        "nothing": [],
    }


def random_message(r, f):
    def a_strings():
        return strings(*("xyz"[: r.randrange(4)] for _ in range(r.randrange(3))))

    def a_tokens():
        return tokens(*(r.randrange(70000) for _ in range(r.randrange(3))))

    makers = [
        lambda: field(f.prompt_string, "p" * r.randrange(3)),
        lambda: field(f.prompt_strings, a_strings()),
        lambda: field(f.prompt_tokens, a_tokens()),
        lambda: field(f.prompt_token_arrays, b"".join(field(1, a_tokens()) for _ in range(2))),
        lambda: field(f.stop_string, "s" * r.randrange(3)),
        lambda: field(f.stop_strings, a_strings()),
        lambda: field(f.stream_options, field(r.randrange(1, 3), r.randrange(2))),
        lambda: field(f.model, "m" * r.randrange(2)),
        lambda: field(f.n, r.randrange(5)),
        lambda: field(f.logit_bias, field(1, r.randrange(9)) + varint(2 << 3 | 1) + bytes(8)),
        lambda: field(r.randrange(500, 600), "?"),
    ]
    return [r.choice(makers)() for _ in range(r.randrange(8))]


def number_of(data):
    n = shift = 0
    for byte in data:
        n |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return n >> 3


def is_in_parts(pb, message):
    """A oneof's message is given again, with no other field of that oneof between."""
    fields = pb.CreateCompletionRequest.DESCRIPTOR.fields_by_number
    last = {}
    for part in message:
        f = fields.get(number_of(part))
        if f is None or f.containing_oneof is None:
            continue
        if last.get(f.containing_oneof.name) == f.number and f.message_type:
            return True
        last[f.containing_oneof.name] = f.number
    return False


def run_filter(program, messages):
    data = b"".join(struct.pack("=I", len(m)) + m for m in messages)
    out = subprocess.run([program], input=data, stdout=subprocess.PIPE, check=True).stdout
    at = 0
    for _ in messages:
        (length,) = struct.unpack_from("=I", out, at)
        at += 4
        yield None if length == REFUSED else out[at:at + length]
        at += 0 if length == REFUSED else length
    assert at == len(out)


def main(program, proto):
    pb = load(proto)
    f = Numbers(pb)
    r = random.Random(1)
    named = list(crafted(f).items())
    named += [("random message %d" % i, random_message(r, f)) for i in range(N_RANDOM)]
    messages = [b"".join(parts) for _, parts in named]
    n_bad = n_refused = 0
    for (name, parts), message, ours in zip(named, messages, run_filter(program, messages)):
        theirs = pb.CreateCompletionRequest.FromString(message)
        if ours is None:
            n_refused += 1
        if (ours is None) == is_in_parts(pb, parts):
            if ours is None or pb.CreateCompletionRequest.FromString(ours) == theirs:
                continue
        print("%s: %s\n-- is %s\n-- and not\n%s" % (
            name, message.hex(), "refused" if ours is None else
            "read as\n%s" % pb.CreateCompletionRequest.FromString(ours), theirs))
        n_bad += 1
        if n_bad == 5:
            break
    print("%d messages, of which %d are refused" % (len(messages), n_refused))
    return n_bad > 0 or n_refused == 0


sys.exit(main(*sys.argv[1:]))
