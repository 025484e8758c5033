# Mistake: something is sent back, which task 1 does not ask for.
import socket
import sys

server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    conn, _ = server.accept()
    with conn:
        while sentence := conn.recv(1024):
            print(sentence.decode(errors="replace"), end="")
            conn.sendall(b"got it")
