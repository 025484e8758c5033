# It reads lines, takes the blanks and the line end off, and adds a line end to what it sends back.
import socket
import sys

listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen()
while True:
    conn, client = listener.accept()
    reader = conn.makefile("r", encoding="utf-8", newline="\n")
    for line in reader:
        sentence = line.strip()
        print(client, "says:", sentence)
        conn.sendall((sentence + "\n").encode())
        if sentence == "exit":
            break
    reader.close()
    conn.close()
