/* The files in this folder, as protoc compiles them: a google.protobuf.FileDescriptorSet without
 * comments. Its files import none. Made by the build. */
#ifndef DESCRIPTORS_H
#define DESCRIPTORS_H

#include <stddef.h>
#include <stdint.h>

extern const uint8_t proto_descriptors[];
extern const size_t proto_descriptors_len;

#endif
