# A server that prints a sentence when all of it has come, once, and ends.
import socket
import sys

server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
conn, _ = server.accept()
with conn.makefile(encoding="utf-8") as stream:
    print("Received:", stream.read())
