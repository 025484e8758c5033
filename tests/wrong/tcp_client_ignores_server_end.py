# Mistake: b'' is taken for an echo.
import socket
import sys

conn = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
for line in iter(lambda: sys.stdin.buffer.readline(), b""):
    conn.sendall(line)
    echo = b""
    while len(echo) < len(line):
        part = conn.recv(4096)
        echo += part
        if not part:
            break
    print("echo:", echo.decode())
    if line.strip() in (b"stop", b"exit"):
        break
conn.close()
