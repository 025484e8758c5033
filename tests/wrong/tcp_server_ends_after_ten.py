# Mistake: ten sentences are enough for it.
import socket
import sys

server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    conn, _ = server.accept()
    for _ in range(10):
        sentence = conn.recv(4096)
        if not sentence:
            break
        print(sentence.decode(errors="replace"))
        conn.sendall(sentence)
        if sentence.strip() in (b"stop", b"exit"):
            break
    conn.close()
