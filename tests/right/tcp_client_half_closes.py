# It half-closes at its stop word and at the end of input, and prints until the server has closed.
import socket
import sys
import threading

conn = socket.create_connection(("127.0.0.1", int(sys.argv[1])))


def show():
    with conn.makefile(encoding="utf-8") as lines:
        for line in lines:
            print("<", line.rstrip(), flush=True)


reader = threading.Thread(target=show)
reader.start()
for line in sys.stdin:
    conn.sendall(line.encode())
    if line.strip() == "stop":
        break
conn.shutdown(socket.SHUT_WR)
reader.join()
