# Mistake: it prints the bytes, b'...', in place of the text.
import socket
import sys

conn = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
while True:
    try:
        sentence = input("> ")
    except EOFError:
        break
    conn.sendall(sentence.encode() + b"\n")
    echo = b""
    while not echo.endswith(b"\n"):
        piece = conn.recv(4096)
        if not piece:
            sys.exit("the server closed the connection")
        echo += piece
    print(echo)
    if sentence in ("stop", "exit"):
        break
