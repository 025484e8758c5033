# select(): one thread for all clients.
import select
import socket
import sys

listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
sockets = [listener]
while True:
    for sock in select.select(sockets, [], [])[0]:
        if sock is listener:
            sockets.append(listener.accept()[0])
            continue
        try:
            data = sock.recv(8192)
            print(data.decode(errors="replace"))
            sock.sendall(data)
        except OSError:
            data = b""
        if not data or data.strip() in (b"stop", b"exit"):
            sockets.remove(sock)
            sock.close()
