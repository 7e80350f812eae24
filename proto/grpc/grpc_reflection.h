/*
 * grpc.reflection.v1.ServerReflection/ServerReflectionInfo, and the same as v1alpha: what one
 * request is answered with, from the descriptors of the files that are served. Pure. Each file is
 * told as it is: they import none, so that none has to come along.
 */
#ifndef GRPC_REFLECTION_H
#define GRPC_REFLECTION_H

#include <stddef.h>
#include <stdint.h>

#include "../buffer.h"
#include "grpc_status.h"

#define GRPC_REFLECTION_V1_PATH "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
#define GRPC_REFLECTION_V1ALPHA_PATH                                                               \
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"

/* Answers a ServerReflectionRequest: appends a ServerReflectionResponse, be it one that says what
 * is wrong with the question, and returns GRPC_OK; or returns GRPC_INVALID_ARGUMENT for a malformed
 * request. set is a google.protobuf.FileDescriptorSet, well-formed. */
enum grpc_status grpc_reflection_answer(const uint8_t *set, size_t set_len, const uint8_t *request,
                                        size_t len, struct buffer *reply);

#endif
