# Mistake: b'' is not taken for the end of input, but for nothing yet, for ever.
import socket
import sys
import threading
import time


def serve(conn):
    with conn:
        while True:
            sentence = conn.recv(4096)
            if not sentence:
                time.sleep(0.1)
                continue
            print(sentence.decode(errors="replace"))
            conn.sendall(sentence)
            if sentence.strip() in (b"stop", b"exit"):
                break


server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    conn, _ = server.accept()
    threading.Thread(target=serve, args=(conn,), daemon=True).start()
