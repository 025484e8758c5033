# Mistake: accept() is called once, so the server ends with its first client.
import socket
import sys


def serve(conn):
    with conn:
        while sentence := conn.recv(4096):
            print(sentence.decode(errors="replace"))
            conn.sendall(sentence)
            if sentence.strip() in (b"stop", b"exit"):
                break


server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
conn, _ = server.accept()
serve(conn)
