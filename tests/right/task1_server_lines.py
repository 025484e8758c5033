# Task 1: it prints the lines of one client, in upper and lower case as they come, and ends.
import socket
import sys

listener = socket.socket()
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen(1)
conn, _ = listener.accept()
for line in conn.makefile(encoding="utf-8"):
    print("-->", line.rstrip("\n"), "<--")
