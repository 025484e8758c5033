# Mistake: the stop word is found anywhere in a sentence, and that one is not answered.
import socket
import sys

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", int(sys.argv[1])))
while True:
    sentence, client = server.recvfrom(65507)
    print(sentence.decode(errors="replace"))
    if b"stop" in sentence and sentence != b"stop":
        continue
    server.sendto(sentence, client)
