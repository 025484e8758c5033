# Mistake: it tries for ever to reach a server that is not there.
import socket
import sys
import time

while True:
    try:
        conn = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
        break
    except OSError:
        time.sleep(0.1)
for line in iter(lambda: sys.stdin.buffer.readline(), b""):
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
