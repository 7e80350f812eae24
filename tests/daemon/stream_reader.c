/*
 * A caller that can be killed: asks the socket for a stream, and writes one byte to stdout for each
 * message it gets.
 */
#include <stdio.h>
#include <unistd.h>

#include "harness.h"
#include "rpc.h"

int main(int argc, char **argv)
{
    struct rpc r;
    Completion__V1__Completion *completion;
    rpc_request request = rpc_request_new("m", "Hello");

    if (argc != 2) {
        fputs("Usage: stream-reader SOCKET\n", stderr);
        return 2;
    }
    rpc_connect(&r, argv[1]);
    struct grpc_client_call *call = rpc_start(&r, RPC_CREATE_STREAM, &request, -1);
    if (write(STDOUT_FILENO, "s", 1) != 1)
        return 1;
    while ((completion = rpc_next(&r, call))) {
        rpc_completion_free(completion);
        if (write(STDOUT_FILENO, "m", 1) != 1)
            return 1;
    }
    grpc_client_call_free(call);
    rpc_close(&r);
    return 0;
}
