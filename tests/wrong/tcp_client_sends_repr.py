# Mistake: str() of the bytes is sent, b'…'.
import socket
import sys

conn = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
for line in iter(lambda: sys.stdin.buffer.readline(), b""):
    line = str(line).encode()
    conn.sendall(line)
    echo = b""
    while len(echo) < len(line):
        part = conn.recv(4096)
        if not part:
            sys.exit("the server closed the connection")
        echo += part
    print("echo:", echo.decode())
    if line.strip() in (b"stop", b"exit"):
        break
conn.close()
