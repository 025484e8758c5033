# Mistake: the connection is kept in a global variable.
import socket
import sys
import threading

conn = None


def serve(own):
    while sentence := own.recv(4096):
        print(sentence.decode(errors="replace"))
        conn.sendall(sentence)
        if sentence.strip() in (b"stop", b"exit"):
            break
    own.close()


server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    conn, _ = server.accept()
    threading.Thread(target=serve, args=(conn,), daemon=True).start()
