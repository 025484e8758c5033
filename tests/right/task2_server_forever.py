# Task 2: each client says one sentence, and gets it back.
import socket
import sys

listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    conn, _ = listener.accept()
    sentence = conn.recv(2048)
    print(sentence.decode(errors="replace"))
    conn.sendall(sentence)
    conn.close()
