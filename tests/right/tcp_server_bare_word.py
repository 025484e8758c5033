# grade: --stop QUIT
# A server for clients that send no line ends: its stop word, QUIT, comes without one, unechoed.
import socket
import sys

server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("localhost", int(sys.argv[1])))
server.listen(1)
print("The server is ready")
while True:
    conn, addr = server.accept()
    while True:
        data = conn.recv(1024)
        if not data or data == b"QUIT":
            break
        print("From", addr, ":", data.decode("utf-8", "replace"), flush=True)
        conn.sendall(data)
    conn.close()
