/*
 * nghttp2's own allocations, charged to an account as essential: without them the connection ends.
 */
#ifndef HTTP2_MEMORY_H
#define HTTP2_MEMORY_H

#include <nghttp2/nghttp2.h>

#include "../memory.h"

/* For nghttp2_session_server_new3(), which copies it. A refused charge is a failed allocation. The
 * account may be NULL. */
nghttp2_mem http2_memory(struct memory *account);

#endif
