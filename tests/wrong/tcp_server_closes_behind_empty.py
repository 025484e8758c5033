# Mistake: an empty line is echoed, and then taken for the end.
import socket
import sys
import threading


def serve(conn):
    with conn:
        while sentence := conn.recv(4096):
            print(sentence.decode(errors="replace"))
            conn.sendall(sentence)
            if sentence.strip() in (b"", b"stop", b"exit"):
                break


server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    conn, _ = server.accept()
    threading.Thread(target=serve, args=(conn,), daemon=True).start()
