#!/usr/bin/python3
"""What a program does with completiond: ask, read a stream, cancel, keep a deadline, read an error."""

import os

import grpc

from completion.v1 import completion_pb2 as pb
from completion.v1 import completion_pb2_grpc as rpc

socket = os.environ.get("COMPLETIOND_SOCKET", "/run/completiond/rpc.sock")
completions = rpc.CompletionsStub(grpc.insecure_channel("unix:" + socket))
short = pb.CreateCompletionRequest(
    model="gpt-3.5-turbo-instruct", prompt_string="Once upon a time", temperature=0, max_tokens=12)
long = pb.CreateCompletionRequest()
long.CopyFrom(short)
long.max_tokens = 1000

# The whole answer.
answer = completions.Create(short)
print("unary:" + answer.choices[0].text)

# The same in pieces, as they are generated. The loop ends with an exception if the answer was cut.
print("stream:", end="")
for chunk in completions.CreateStream(short):
    for choice in chunk.choices:
        print(choice.text, end="", flush=True)
print()

# Whoever has read enough cancels, and the generation stops.
call = completions.CreateStream(long)
first = next(call)
call.cancel()
print("cancelled after:" + first.choices[0].text)

# Seconds for everything, the wait for the upstream included.
try:
    completions.Create(long, timeout=0.2)
except grpc.RpcError as error:
    print("deadline:", error.code().name)

# What is wrong, in fields.
try:
    completions.Create(pb.CreateCompletionRequest(model="gpt-3.5-turbo-instruct", temperature=3))
except grpc.RpcError as error:
    trailers = dict(error.trailing_metadata())
    status = pb.ErrorStatus.FromString(trailers["grpc-status-details-bin"])
    detail = status.details[0].value
    print("error:", error.code().name, detail.reason, detail.param)
