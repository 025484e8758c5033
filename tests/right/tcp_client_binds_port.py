# It binds a port of its own, always the same one.
import socket
import sys

conn = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
conn.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
conn.bind(("127.0.0.1", 23819))
conn.connect(("127.0.0.1", int(sys.argv[1])))
for line in sys.stdin:
    conn.sendall(line.encode())
    print("echo:", conn.recv(4096).decode().strip(), flush=True)
    if line.strip() == "stop":
        break
conn.close()
