# Mistake: bytes that are no UTF-8 end the server.
import socket
import sys

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", int(sys.argv[1])))
while True:
    sentence, client = server.recvfrom(65507)
    print(sentence.decode())
    server.sendto(sentence, client)
