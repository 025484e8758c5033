# Mistake: the next client is accepted when the one before has left.
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
while True:
    conn, _ = server.accept()
    try:
        serve(conn)
    except OSError as error:
        print(error)
