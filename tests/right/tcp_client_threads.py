# A client that reads in a thread, sends CRLF, and leaves it to the server to close.
import os
import socket
import sys
import threading

conn = socket.create_connection(("127.0.0.1", int(sys.argv[1])))


def receive():
    while data := conn.recv(16):
        os.write(1, data)
    print("the server has closed")
    os._exit(0)


threading.Thread(target=receive).start()
for line in sys.stdin:
    conn.sendall(line.rstrip("\n").encode() + b"\r\n")
conn.shutdown(socket.SHUT_WR)
