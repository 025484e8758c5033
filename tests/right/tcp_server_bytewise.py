# It reads byte by byte, and prints a line when it has one.
import socket
import sys
import threading


def serve(conn):
    line = b""
    while byte := conn.recv(1):
        conn.sendall(byte)
        line += byte
        if byte == b"\n":
            print("line:", line.decode(errors="replace").rstrip())
            if line.strip() in (b"stop", b"exit"):
                break
            line = b""
    conn.close()


listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
