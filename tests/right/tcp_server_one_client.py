# It serves one client until the stop word, and ends: the handout asks for no more.
import socket
import sys

listener = socket.socket()
listener.bind(("localhost", int(sys.argv[1])))
listener.listen(1)
conn, _ = listener.accept()
sentence = ""
while sentence != "stop":
    data = conn.recv(1024)
    if not data:
        break
    sentence = data.decode().strip()
    print("The client says:", sentence)
    conn.send(data)
conn.close()
listener.close()
