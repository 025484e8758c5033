# Mistake: the rest that send() did not take is left out.
import socket
import sys
import threading


def serve(conn):
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with conn:
        while sentence := conn.recv(65536):
            print(sentence.decode(errors="replace"))
            conn.send(sentence, socket.MSG_DONTWAIT)
            if sentence.strip() in (b"stop", b"exit"):
                break


server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    conn, _ = server.accept()
    threading.Thread(target=serve, args=(conn,), daemon=True).start()
