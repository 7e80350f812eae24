# IN, a google.protobuf.FileDescriptorSet, as C in OUT.
file(READ ${IN} bytes HEX)
string(LENGTH "${bytes}" size)
math(EXPR size "${size} / 2")
string(REGEX REPLACE "(..)" "0x\\1," bytes "${bytes}")
string(REGEX REPLACE "(................................................................................)" "\\1\n"
  bytes "${bytes}")
file(WRITE ${OUT} "#include \"descriptors.h\"\n\n"
  "const size_t proto_descriptors_len = ${size};\nconst uint8_t proto_descriptors[] = {\n${bytes}\n};\n")
