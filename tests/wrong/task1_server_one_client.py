# Mistake: accept() is called once.
import socket
import sys

server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
conn, _ = server.accept()
while sentence := conn.recv(1024):
    print(sentence.decode(errors="replace"), end="")
