# A menu and colours around each sentence; CRLF as line end.
import socket
import sys

MENU = "\x1b[2m----------------\n any text: send it\n exit:     leave\n----------------\x1b[0m"
conn = socket.create_connection(("localhost", int(sys.argv[1])))
while True:
    print(MENU)
    sentence = input("\x1b[32mYour choice: \x1b[0m")
    conn.sendall(sentence.encode() + b"\r\n")
    if sentence == "exit":
        break
    echo = b""
    while not echo.endswith(b"\n"):
        piece = conn.recv(100)
        if not piece:
            sys.exit("the server closed the connection")
        echo += piece
    print("\x1b[1;34mserver:\x1b[0m", echo.decode().rstrip())
conn.close()
