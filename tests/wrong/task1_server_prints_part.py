# Mistake: a part of a sentence is taken for the whole.
import socket
import sys

server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    conn, _ = server.accept()
    with conn:
        print(conn.recv(1024).decode(errors="replace"))
