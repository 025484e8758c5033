# Mistake: one recv() is taken for the whole echo.
import socket
import sys

conn = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
for line in iter(lambda: sys.stdin.buffer.readline(), b""):
    conn.sendall(line)
    echo = conn.recv(4096)
    if not echo:
        sys.exit("the server closed the connection")
    print("echo:", echo.decode())
    if line.strip() in (b"stop", b"exit"):
        break
conn.close()
