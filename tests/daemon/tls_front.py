"""TLS in front of a server that has none.

tls_front.py PORT NAME[:VERSION]... listens on a port of 127.0.0.1 for each NAME, with the certificate
NAME.pem and the key NAME.key, speaks VERSION of TLS only ("1.0", "1.2", "1.3"; any that is usual), and
passes what it gets on to PORT. It prints the ports, one a line, and ends with its standard input.
"""
import os
import select
import socket
import ssl
import sys
import threading
import warnings

VERSIONS = {"1.0": ssl.TLSVersion.TLSv1, "1.2": ssl.TLSVersion.TLSv1_2,
            "1.3": ssl.TLSVersion.TLSv1_3}


def context_for(name, version):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Not what is tested here, and what is tested may be older.
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.load_cert_chain(name + ".pem", name + ".key")
    if version:
        context.minimum_version = context.maximum_version = VERSIONS[version]
    return context


def serve(client, context, port):
    try:
        with context.wrap_socket(client, server_side=True) as front, \
                socket.create_connection(("127.0.0.1", port)) as back:
            while True:
                ready = [front] if front.pending() else select.select([front, back], [], [])[0]
                for one in ready:
                    data = one.recv(65536)
                    if not data:
                        return
                    (back if one is front else front).sendall(data)
    except OSError:
        client.close()


def listen(listener, context, port):
    while True:
        client, _ = listener.accept()
        threading.Thread(target=serve, args=(client, context, port), daemon=True).start()


def main():
    warnings.simplefilter("ignore", DeprecationWarning)
    port = int(sys.argv[1])
    for argument in sys.argv[2:]:
        name, _, version = argument.partition(":")
        listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        threading.Thread(target=listen, args=(listener, context_for(name, version), port),
                         daemon=True).start()
        print(listener.getsockname()[1], flush=True)
    sys.stdin.read()
    os._exit(0)


main()
