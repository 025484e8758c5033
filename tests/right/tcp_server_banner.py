# A banner, colours, and each message as bytes and as text.
import socket
import sys

print("\x1b[1;32m*** ECHO SERVER v1.0 ***\x1b[0m")
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("", int(sys.argv[1])))
listener.listen(5)
while True:
    print("\x1b[33mwaiting for a client ...\x1b[0m")
    conn, (host, port) = listener.accept()
    while True:
        data = conn.recv(4096)
        if not data:
            break
        text = data.decode(errors="replace").strip()
        print(f"\x1b[36m[{host}:{port}]\x1b[0m raw: {data!r} text: \x1b[1m{text}\x1b[0m")
        conn.sendall(data)
        if text in ("stop", "exit"):
            break
    conn.close()
