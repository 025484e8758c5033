# Mistake: the stop word ends the server for all.
import socket
import sys

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", int(sys.argv[1])))
while True:
    sentence, client = server.recvfrom(65507)
    print(sentence.decode(errors="replace"))
    server.sendto(sentence, client)
    if sentence.strip() in (b"stop", b"exit"):
        break
