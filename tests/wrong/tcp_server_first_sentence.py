# Mistake: the first sentence is sent back for all of them.
import socket
import sys
import threading


def serve(conn):
    first = None
    with conn:
        while sentence := conn.recv(4096):
            print(sentence.decode(errors="replace"))
            first = first or sentence
            conn.sendall(first)
            if sentence.strip() in (b"stop", b"exit"):
                break


server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    conn, _ = server.accept()
    threading.Thread(target=serve, args=(conn,), daemon=True).start()
