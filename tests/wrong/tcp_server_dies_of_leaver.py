# Mistake: a sentence without its end is waited for also when the client has left.
import selectors
import socket
import sys

selector = selectors.DefaultSelector()
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
selector.register(server, selectors.EVENT_READ)
unfinished = {}


def serve(conn):
    try:
        sentence = conn.recv(65536)
    except OSError:
        sentence = b""
    if sentence:
        print(sentence.decode(errors="replace"))
        conn.setblocking(True)
        conn.sendall(sentence)
        unfinished[conn] = not sentence.endswith(b"\n")
    while not sentence and unfinished.get(conn):
        sentence = conn.recv(65536)
    if not sentence or sentence.strip() in (b"stop", b"exit"):
        selector.unregister(conn)
        conn.close()


while True:
    for key, _ in selector.select():
        if key.fileobj is server:
            conn, _ = server.accept()
            selector.register(conn, selectors.EVENT_READ)
        else:
            serve(key.fileobj)
