# Mistake: what one read brings is taken for one line.
import socket
import sys
import threading


def serve(conn):
    with conn:
        while sentence := conn.recv(65536):
            line, end, _ = sentence.partition(b"\n")
            sentence = line + end
            print(sentence.decode(errors="replace"))
            conn.sendall(sentence)
            if sentence.strip() in (b"stop", b"exit"):
                break


server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    conn, _ = server.accept()
    threading.Thread(target=serve, args=(conn,), daemon=True).start()
