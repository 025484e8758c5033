# Mistake: it leaves at a sentence that has the stop word in it.
import socket
import sys

conn = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
for sentence in sys.stdin:
    conn.sendall(sentence.encode())
    echo = b""
    while not echo.endswith(b"\n"):
        piece = conn.recv(4096)
        if not piece:
            sys.exit("the server closed the connection")
        echo += piece
    print(echo.decode(), end="", flush=True)
    if "stop" in sentence or "exit" in sentence:
        break
